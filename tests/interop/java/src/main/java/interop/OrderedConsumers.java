package interop;

import com.alibaba.fastjson.JSONObject;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/** Push consumers that consume in order: "start_ordered_consumer"; what they got is asked for as of the others. */
final class OrderedConsumers {
    private final Driver driver;

    OrderedConsumers(Driver driver) {
        this.driver = driver;
        driver.on("start_ordered_consumer", this::start);
    }

    /** Takes a moment for each message; what begins with "hard" it cannot handle the first few times. */
    static final class Ordered extends Consumers.Consumer implements MessageListenerOrderly {
        final int failures;
        final long suspendMs;
        final long workMs;

        Ordered(DefaultMQPushConsumer client, int failures, long suspendMs, long workMs) {
            super(client, 0);
            this.failures = failures;
            this.suspendMs = suspendMs;
            this.workMs = workMs;
        }

        @Override
        public ConsumeOrderlyStatus consumeMessage(List<MessageExt> messages, ConsumeOrderlyContext context) {
            boolean fails = false;
            for (MessageExt message : messages) {
                JSONObject got = Messages.json(message, context.getMessageQueue().getBrokerName());
                got.put("begun_ms", System.currentTimeMillis());
                try {
                    Thread.sleep(workMs);
                } catch (InterruptedException ended) {
                    return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                }
                fails |= got.getString("body").startsWith("hard") && message.getReconsumeTimes() < failures;
                got.put("ended_ms", System.currentTimeMillis());
                synchronized (received) {
                    received.add(got);
                    received.notifyAll();
                }
            }
            context.setSuspendCurrentQueueTimeMillis(suspendMs);
            return fails ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT : ConsumeOrderlyStatus.SUCCESS;
        }
    }

    private Object start(JSONObject ask) throws Exception {
        DefaultMQPushConsumer client = new DefaultMQPushConsumer(ask.getString("group"));
        client.setNamesrvAddr(ask.getString("namesrv"));
        client.setInstanceName(driver.instanceName());
        client.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        client.setConsumeThreadMin(4);
        client.setConsumeThreadMax(4);
        client.setPollNameServerInterval(1000);
        client.setHeartbeatBrokerInterval(1000);
        client.setPersistConsumerOffsetInterval(1000);
        if (ask.containsKey("max_reconsume_times")) {
            client.setMaxReconsumeTimes(ask.getIntValue("max_reconsume_times"));
        }
        client.subscribe(ask.getString("topic"), "*");
        Ordered consumer = new Ordered(client, ask.getIntValue("failures"), ask.getLongValue("suspend_ms"),
            ask.getLongValue("work_ms"));
        client.registerMessageListener((MessageListenerOrderly) consumer);
        client.start();
        driver.started(ask.getString("name"), consumer);
        return client.buildMQClientId();
    }
}
