package interop5;

import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * A 5.x client with timed messages: sends one in each way that it has, recalls one, asks for one too far ahead.
 * Prints what happened, a line each with tabs between its parts.
 */
public final class TimedMessages {
    private static final int DELIVERED = 4;
    /** Long enough that a pause of the machine does not let it be delivered before it is recalled. */
    private static final long RECALLED_MS = 8000;

    public static void main(String[] args) throws Exception {
        PrintStream answers = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        String namesrv = args[0];
        String topic = args[1];
        CountDownLatch delivered = new CountDownLatch(DELIVERED);
        DefaultMQProducer producer = new DefaultMQProducer("timing");
        producer.setNamesrvAddr(namesrv);
        producer.setSendMsgTimeout(30_000);
        producer.start();
        producer.send(message(topic, "now"));
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("timed-" + topic);
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt each : messages) {
                answers.println(String.join("\t", "got", new String(each.getBody(), StandardCharsets.UTF_8),
                    String.valueOf(each.getStoreTimestamp()), String.valueOf(System.currentTimeMillis())));
                delivered.countDown();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();

        Message seconds = message(topic, "seconds");
        seconds.setDelayTimeSec(2);
        sent(answers, "seconds", System.currentTimeMillis() + 2000, producer.send(seconds));
        Message recalled = message(topic, "recalled");
        recalled.setDelayTimeMs(RECALLED_MS);
        SendResult result = producer.send(recalled);
        answers.println(String.join("\t", "recalled", result.getMsgId(),
            producer.recallMessage(topic, result.getRecallHandle())));
        Message millis = message(topic, "millis");
        millis.setDelayTimeMs(1500);
        sent(answers, "millis", System.currentTimeMillis() + 1500, producer.send(millis));
        long due = System.currentTimeMillis() + RECALLED_MS + 500;
        Message time = message(topic, "time");
        time.setDeliverTimeMs(due);
        sent(answers, "time", due, producer.send(time));
        Message far = message(topic, "far");
        far.setDelayTimeSec(4 * 24 * 3600);
        try {
            producer.send(far);
        } catch (MQBrokerException refused) {
            answers.println(String.join("\t", "refused", String.valueOf(refused.getResponseCode()),
                refused.getErrorMessage()));
        }
        delivered.await(60, TimeUnit.SECONDS);
        consumer.shutdown();
        producer.shutdown();
        System.exit(0);
    }

    private static Message message(String topic, String body) {
        return new Message(topic, body.getBytes(StandardCharsets.UTF_8));
    }

    private static void sent(PrintStream answers, String body, long dueBefore, SendResult result) {
        answers.println(String.join("\t", "sent", body, String.valueOf(dueBefore), result.getSendStatus().name()));
    }
}
