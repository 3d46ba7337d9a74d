package interop;

import com.alibaba.fastjson.JSONObject;
import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/** The two programs of a beginner's tutorial, with nothing set that it does not set. */
final class Tutorial {
    private static final String GROUP = "HAOKE_IM";
    private static final String TOPIC = "my-test-topic";

    private Tutorial() {
    }

    /** Start a producer, send one message with a time-out of one second, stop the producer. */
    static JSONObject produce(String namesrv, String text) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(GROUP);
        producer.setNamesrvAddr(namesrv);
        producer.setRetryTimesWhenSendFailed(3);
        producer.start();
        try {
            Message message = new Message(TOPIC, "SEND_MSG", text.getBytes(StandardCharsets.UTF_8));
            SendResult result = producer.send(message, 1000);
            return Messages.json(result);
        } finally {
            producer.shutdown();
        }
    }

    /** Start a consumer of all tags that puts off each message until it came "laterUntil" times again. */
    static Consumers.Consumer consume(String namesrv, int laterUntil) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(GROUP);
        consumer.setNamesrvAddr(namesrv);
        consumer.subscribe(TOPIC, "*");
        Consumers.Consumer running = new Consumers.Consumer(consumer, laterUntil);
        consumer.registerMessageListener(running);
        consumer.start();
        return running;
    }
}
