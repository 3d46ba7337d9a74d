package interop;

import com.alibaba.fastjson.JSONObject;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Locale;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.MessageQueueSelector;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Requests and replies, and namespaces: "request", "start_responder". RocketMQ has them since 4.6 and 4.5, so they
 * are called by name and this compiles against older versions, too.
 */
final class Requests {
    private final Driver driver;

    Requests(Driver driver) {
        this.driver = driver;
        driver.on("request", this::request);
        driver.on("start_responder", this::startResponder);
    }

    /** Answers every message with its body in capitals. */
    private static final class Responder implements Driver.Running {
        final DefaultMQProducer producer;
        final DefaultMQPushConsumer consumer;

        Responder(DefaultMQProducer producer, DefaultMQPushConsumer consumer) {
            this.producer = producer;
            this.consumer = consumer;
        }

        @Override
        public void stop() {
            consumer.shutdown();
            producer.shutdown();
        }
    }

    static void setNamespace(Object client, JSONObject ask) throws Exception {
        if (ask.containsKey("namespace")) {
            client.getClass().getMethod("setNamespace", String.class).invoke(client, ask.getString("namespace"));
        }
    }

    /** The variant with a selector: in 4.9.4 the others give back the request itself. */
    private Object request(JSONObject ask) throws Exception {
        DefaultMQProducer client = driver.get(ask.getString("name"), Producers.Producer.class).client;
        MessageQueueSelector first = (queues, message, argument) -> queues.get(0);
        Message reply;
        try {
            reply = (Message) DefaultMQProducer.class
                .getMethod("request", Message.class, MessageQueueSelector.class, Object.class, long.class)
                .invoke(client, Messages.message(ask), first, null, ask.getLongValue("timeout_ms"));
        } catch (InvocationTargetException wrapped) {
            throw (Exception) wrapped.getCause();
        }
        JSONObject json = new JSONObject();
        json.put("body", new String(reply.getBody(), StandardCharsets.UTF_8));
        json.put("body_base64", Base64.getEncoder().encodeToString(reply.getBody()));
        json.put("tags", reply.getTags());
        json.put("keys", reply.getKeys());
        json.put("flag", reply.getFlag());
        json.put("properties", reply.getProperties());
        return json;
    }

    private Object startResponder(JSONObject ask) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(ask.getString("group") + "-replies");
        producer.setNamesrvAddr(ask.getString("namesrv"));
        producer.setInstanceName(driver.instanceName());
        setNamespace(producer, ask);
        producer.start();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(ask.getString("group"));
        consumer.setNamesrvAddr(ask.getString("namesrv"));
        consumer.setInstanceName(driver.instanceName());
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        setNamespace(consumer, ask);
        consumer.subscribe(ask.getString("topic"), "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                try {
                    producer.send(reply(message));
                } catch (Exception failed) {
                    failed.printStackTrace();
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        driver.started(ask.getString("name"), new Responder(producer, consumer));
        return consumer.buildMQClientId();
    }

    private static Message reply(MessageExt request) throws Exception {
        String body = new String(request.getBody(), StandardCharsets.UTF_8).toUpperCase(Locale.ROOT);
        Message reply = (Message) Class.forName("org.apache.rocketmq.client.utils.MessageUtil")
            .getMethod("createReplyMessage", Message.class, byte[].class)
            .invoke(null, request, body.getBytes(StandardCharsets.UTF_8));
        reply.setTags("answered");
        reply.setKeys("k1 k2");
        reply.setFlag(7);
        reply.putUserProperty("own", "1");
        return reply;
    }
}
