package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Pull consumers: single pulls, and all the ways of asking for offsets. */
@SuppressWarnings("deprecation")
final class Readers {
    private final Driver driver;

    Readers(Driver driver) {
        this.driver = driver;
        driver.on("start_reader", this::start);
        driver.on("queues", this::queues);
        driver.on("offsets", this::offsets);
        driver.on("search_offset", ask -> client(ask).searchOffset(Messages.queue(ask), ask.getLongValue("time_ms")));
        driver.on("pull", this::pull);
        driver.on("commit", this::commit);
        driver.on("committed", ask -> client(ask).fetchConsumeOffset(Messages.queue(ask), true));
        driver.on("view", ask -> Messages.json(client(ask).viewMessage(ask.getString("offset_msg_id")), null));
        driver.on("view_unique", ask -> Messages.json(
            client(ask).viewMessage(ask.getString("topic"), ask.getString("msg_id")), null));
        driver.on("query", this::query);
    }

    private static final class Reader implements Driver.Running {
        final DefaultMQPullConsumer client;

        Reader(DefaultMQPullConsumer client) {
            this.client = client;
        }

        @Override
        public void stop() {
            client.shutdown();
        }
    }

    private DefaultMQPullConsumer client(JSONObject ask) {
        return driver.get(ask.getString("name"), Reader.class).client;
    }

    private Object start(JSONObject ask) throws Exception {
        DefaultMQPullConsumer client = new DefaultMQPullConsumer(ask.getString("group"));
        client.setNamesrvAddr(ask.getString("namesrv"));
        client.setInstanceName(driver.instanceName());
        client.start();
        driver.started(ask.getString("name"), new Reader(client));
        return client.buildMQClientId();
    }

    private Object queues(JSONObject ask) throws Exception {
        List<MessageQueue> queues = new ArrayList<>(client(ask).fetchSubscribeMessageQueues(ask.getString("topic")));
        Collections.sort(queues);
        JSONArray json = new JSONArray();
        for (MessageQueue queue : queues) {
            json.add(Messages.json(queue));
        }
        return json;
    }

    private Object offsets(JSONObject ask) throws Exception {
        MessageQueue queue = Messages.queue(ask);
        JSONObject offsets = new JSONObject();
        offsets.put("min", client(ask).minOffset(queue));
        offsets.put("max", client(ask).maxOffset(queue));
        offsets.put("earliest_store_ms", client(ask).earliestMsgStoreTime(queue));
        return offsets;
    }

    private Object pull(JSONObject ask) throws Exception {
        MessageQueue queue = Messages.queue(ask);
        String filter = ask.containsKey("filter") ? ask.getString("filter") : "*";
        int max = ask.containsKey("max") ? ask.getIntValue("max") : 32;
        PullResult result = ask.getBooleanValue("block")
            ? client(ask).pullBlockIfNotFound(queue, filter, ask.getLongValue("offset"), max)
            : client(ask).pull(queue, filter, ask.getLongValue("offset"), max);
        JSONObject json = new JSONObject();
        json.put("status", result.getPullStatus().name());
        json.put("next_offset", result.getNextBeginOffset());
        json.put("min_offset", result.getMinOffset());
        json.put("max_offset", result.getMaxOffset());
        json.put("messages", messages(result.getMsgFoundList(), queue.getBrokerName()));
        return json;
    }

    /** Commit at the broker and wait for its answer (a consumer's own commits are oneway). */
    private Object commit(JSONObject ask) throws Exception {
        client(ask).getDefaultMQPullConsumerImpl().getOffsetStore().updateConsumeOffsetToBroker(
            Messages.queue(ask), ask.getLongValue("offset"), false);
        return null;
    }

    /** Messages by key: all there are, unless "max", "begin_ms" or "end_ms" are given. */
    private Object query(JSONObject ask) throws Exception {
        int max = ask.containsKey("max") ? ask.getIntValue("max") : 64;
        long end = ask.containsKey("end_ms") ? ask.getLongValue("end_ms") : Long.MAX_VALUE;
        return messages(client(ask).queryMessage(ask.getString("topic"), ask.getString("key"), max,
            ask.getLongValue("begin_ms"), end).getMessageList(), null);
    }

    private static JSONArray messages(List<MessageExt> found, String brokerName) {
        JSONArray json = new JSONArray();
        if (found != null) {
            for (MessageExt message : found) {
                json.add(Messages.json(message, brokerName));
            }
        }
        return json;
    }
}
