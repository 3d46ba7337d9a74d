package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyContext;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.protocol.heartbeat.MessageModel;

/** Push consumers: "start_consumer", "start_tutorial_consumer", "received", "assigned", "commit_all". */
final class Consumers {
    private final Driver driver;

    Consumers(Driver driver) {
        this.driver = driver;
        driver.on("start_consumer", this::start);
        driver.on("start_tutorial_consumer", this::startTutorial);
        driver.on("subscribe_sql", this::subscribeSql);
        driver.on("received", this::received);
        driver.on("assigned", this::assigned);
        driver.on("commit_all", this::commitAll);
    }

    /** A push consumer and all that its listener was given so far. */
    static class Consumer implements Driver.Running, MessageListenerConcurrently {
        final DefaultMQPushConsumer client;
        final List<JSONObject> received = new ArrayList<>();
        /** Below this count of earlier deliveries the listener answers "later". */
        final int laterUntil;
        /** The delay level that it asks for then; 0 leaves that to the broker. */
        int laterLevel = 0;
        /** So long it handles a message before it answers "later". */
        int holdMs = 0;
        /** What its handler does not come back from. */
        Stuck stuck = new Stuck(null);

        Consumer(DefaultMQPushConsumer client, int laterUntil) {
            this.client = client;
            this.laterUntil = laterUntil;
        }

        @Override
        public ConsumeConcurrentlyStatus consumeMessage(List<MessageExt> messages, ConsumeConcurrentlyContext context) {
            boolean later = false;
            synchronized (received) {
                for (MessageExt message : messages) {
                    received.add(Messages.json(message, context.getMessageQueue().getBrokerName()));
                    later |= message.getReconsumeTimes() < laterUntil;
                }
                received.notifyAll();
            }
            if (later) {
                context.setDelayLevelWhenNextConsume(laterLevel);
                try {
                    Thread.sleep(holdMs);
                } catch (InterruptedException stopped) {
                    Thread.currentThread().interrupt();
                }
            }
            later |= !stuck.sit(messages);
            return later ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }

        @Override
        public void stop() {
            client.shutdown();
        }
    }

    private Object start(JSONObject ask) throws Exception {
        DefaultMQPushConsumer client = Traces.consumer(ask);
        client.setNamesrvAddr(ask.getString("namesrv"));
        client.setInstanceName(ask.containsKey("instance") ? ask.getString("instance") : driver.instanceName());
        if (ask.containsKey("from")) {
            client.setConsumeFromWhere(ConsumeFromWhere.valueOf("CONSUME_FROM_" + ask.getString("from")));
        }
        if (ask.containsKey("timestamp")) {
            client.setConsumeTimestamp(ask.getString("timestamp"));
        }
        if (ask.getBooleanValue("broadcast")) {
            client.setMessageModel(MessageModel.BROADCASTING);
        }
        Requests.setNamespace(client, ask);
        if (ask.containsKey("batch")) {
            client.setConsumeMessageBatchMaxSize(ask.getIntValue("batch"));
        }
        if (ask.containsKey("max_reconsume_times")) {
            client.setMaxReconsumeTimes(ask.getIntValue("max_reconsume_times"));
        }
        client.setConsumeThreadMin(4);
        client.setConsumeThreadMax(4);
        client.setPollNameServerInterval(1000);
        client.setHeartbeatBrokerInterval(1000);
        client.setPersistConsumerOffsetInterval(1000);
        String filter = ask.containsKey("filter") ? ask.getString("filter") : "*";
        if (ask.containsKey("sql")) {
            client.subscribe(ask.getString("topic"), MessageSelector.bySql(ask.getString("sql")));
        } else {
            client.subscribe(ask.getString("topic"), filter);
        }
        Consumer consumer = new Consumer(client, ask.getIntValue("later_until"));
        consumer.laterLevel = ask.getIntValue("later_level");
        consumer.holdMs = ask.getIntValue("hold_ms");
        consumer.stuck = Stuck.from(ask, client);
        client.registerMessageListener(consumer);
        client.start();
        driver.started(ask.getString("name"), consumer);
        return client.buildMQClientId();
    }

    /** Change what a running consumer filters by. */
    private Object subscribeSql(JSONObject ask) throws Exception {
        driver.get(ask.getString("name"), Consumer.class).client
            .subscribe(ask.getString("topic"), MessageSelector.bySql(ask.getString("sql")));
        return null;
    }

    private Object startTutorial(JSONObject ask) throws Exception {
        Consumer consumer = Tutorial.consume(ask.getString("namesrv"), ask.getIntValue("later_until"));
        driver.started(ask.getString("name"), consumer);
        return consumer.client.buildMQClientId();
    }

    /** All that came so far, once that is "count" messages or "wait_ms" are over. */
    private Object received(JSONObject ask) throws Exception {
        List<JSONObject> received = driver.get(ask.getString("name"), Consumer.class).received;
        long end = System.nanoTime() + ask.getLongValue("wait_ms") * 1_000_000;
        synchronized (received) {
            while (received.size() < ask.getIntValue("count")) {
                long leftMs = (end - System.nanoTime()) / 1_000_000;
                if (leftMs <= 0) {
                    break;
                }
                received.wait(leftMs);
            }
            return new JSONArray(new ArrayList<>(received));
        }
    }

    /** The queues that rebalancing gave to this consumer, sorted; its own retry topic's queues left out. */
    @SuppressWarnings("deprecation")
    private Object assigned(JSONObject ask) {
        DefaultMQPushConsumer client = driver.get(ask.getString("name"), Consumer.class).client;
        Map<MessageQueue, JSONObject> queues = new TreeMap<>();
        for (MessageQueue queue
            : client.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
            if (!queue.getTopic().startsWith("%RETRY%")) {
                queues.put(queue, Messages.json(queue));
            }
        }
        return queues.values();
    }

    /** Commit all that is consumed now; by itself a consumer begins with that ten seconds after its start. */
    private Object commitAll(JSONObject ask) {
        driver.get(ask.getString("name"), Consumer.class).client.getDefaultMQPushConsumerImpl().persistConsumerOffset();
        return null;
    }
}
