package interop;

import com.alibaba.fastjson.JSONObject;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Semaphore;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.impl.consumer.DefaultMQPushConsumerImpl;
import org.apache.rocketmq.client.impl.consumer.ProcessQueue;
import org.apache.rocketmq.common.MixAll;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * What becomes of a push consumer whose handler is stuck: "let_go", "time_out", "held".
 *
 * A consumer that is started with "sits_on" stays in its handler with each message whose body begins so, until
 * it is let go.
 */
final class Stuck {
    /** null: it sits on none. */
    private final String sitsOn;
    private final Semaphore mayLeave = new Semaphore(0);

    Stuck(String sitsOn) {
        this.sitsOn = sitsOn;
    }

    static void register(Driver driver) {
        driver.on("let_go", ask -> {
            consumer(driver, ask).stuck.mayLeave.release(ask.getIntValue("count"));
            return null;
        });
        driver.on("time_out", ask -> timeOut(consumer(driver, ask).client));
        driver.on("held", ask -> held(consumer(driver, ask).client, ask.getString("topic")));
    }

    /** From what a test asks for; sets the thresholds of flow control, too. */
    static Stuck from(JSONObject ask, DefaultMQPushConsumer client) {
        if (ask.containsKey("threshold")) {
            client.setPullThresholdForQueue(ask.getIntValue("threshold"));
        }
        if (ask.containsKey("threshold_mib")) {
            client.setPullThresholdSizeForQueue(ask.getIntValue("threshold_mib"));
        }
        if (ask.containsKey("max_span")) {
            client.setConsumeConcurrentlyMaxSpan(ask.getIntValue("max_span"));
        }
        return new Stuck(ask.getString("sits_on"));
    }

    /** Sit on these messages; false when the consumer is stopped meanwhile. */
    boolean sit(List<MessageExt> messages) {
        try {
            for (MessageExt message : messages) {
                if (sitsOn != null && new String(message.getBody(), StandardCharsets.UTF_8).startsWith(sitsOn)) {
                    mayLeave.acquire();
                }
            }
            return true;
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
            return false;
        }
    }

    private static Consumers.Consumer consumer(Driver driver, JSONObject ask) {
        return driver.get(ask.getString("name"), Consumers.Consumer.class);
    }

    @SuppressWarnings("deprecation")
    private static DefaultMQPushConsumerImpl inside(DefaultMQPushConsumer client) {
        return client.getDefaultMQPushConsumerImpl();
    }

    /**
     * Let consumeTimeout (in minutes) be over for all that is being handled, and the client look for it now. Not
     * at retried messages: what is sent back may be here again at once, and be timed out as well; or its handler
     * has not begun, over which 4.3.2 stumbles.
     */
    private static Object timeOut(DefaultMQPushConsumer client) throws Exception {
        Thread.sleep(2); // "over" is more than 0 ms
        client.setConsumeTimeout(0);
        for (Map.Entry<MessageQueue, ProcessQueue> each
            : inside(client).getRebalanceImpl().getProcessQueueTable().entrySet()) {
            if (!each.getKey().getTopic().startsWith(MixAll.RETRY_GROUP_TOPIC_PREFIX)) {
                each.getValue().cleanExpiredMsg(client);
            }
        }
        return null;
    }

    /** How much of a topic the client holds, and how often it has put off a pull since it did, by which limit. */
    private static Object held(DefaultMQPushConsumer client, String topic) throws Exception {
        long messages = 0;
        long bytes = 0;
        for (Map.Entry<MessageQueue, ProcessQueue> each
            : inside(client).getRebalanceImpl().getProcessQueueTable().entrySet()) {
            if (each.getKey().getTopic().equals(topic)) {
                messages += each.getValue().getMsgCount().get();
                bytes += each.getValue().getMsgSize().get();
            }
        }
        JSONObject json = new JSONObject();
        json.put("messages", messages);
        json.put("bytes", bytes);
        json.put("full", count(client, "queueFlowControlTimes"));
        json.put("too_wide", count(client, "queueMaxSpanFlowControlTimes"));
        return json;
    }

    private static Object count(DefaultMQPushConsumer client, String name) throws Exception {
        Field field = DefaultMQPushConsumerImpl.class.getDeclaredField(name);
        field.setAccessible(true);
        return field.get(inside(client));
    }
}
