package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/** Producers: "start_producer", "send" (sync, async, oneway, batch), "tutorial_send". */
final class Producers {
    private final Driver driver;

    Producers(Driver driver) {
        this.driver = driver;
        driver.on("start_producer", this::start);
        driver.on("send", this::send);
        driver.on("tutorial_send", ask -> Tutorial.produce(ask.getString("namesrv"), ask.getString("body")));
    }

    static final class Producer implements Driver.Running {
        final DefaultMQProducer client;

        Producer(DefaultMQProducer client) {
            this.client = client;
        }

        @Override
        public void stop() {
            client.shutdown();
        }
    }

    private Object start(JSONObject ask) throws Exception {
        // 4.9.4 reads it while a producer is made; older clients know zlib only.
        System.setProperty("rocketmq.message.compressType",
            ask.containsKey("compression") ? ask.getString("compression") : "ZLIB");
        DefaultMQProducer client = Traces.producer(ask);
        client.setNamesrvAddr(ask.getString("namesrv"));
        client.setInstanceName(driver.instanceName());
        // By default long enough that a pause of the machine makes it send nothing twice.
        client.setSendMsgTimeout(ask.containsKey("timeout_ms") ? ask.getIntValue("timeout_ms") : 30_000);
        if (ask.containsKey("retries")) {
            client.setRetryTimesWhenSendFailed(ask.getIntValue("retries"));
        }
        if (ask.containsKey("max_message_size")) {
            client.setMaxMessageSize(ask.getIntValue("max_message_size"));
        }
        Requests.setNamespace(client, ask);
        client.start();
        driver.started(ask.getString("name"), new Producer(client));
        return client.buildMQClientId();
    }

    private Object send(JSONObject ask) throws Exception {
        DefaultMQProducer client = driver.get(ask.getString("name"), Producer.class).client;
        List<JSONObject> asked = ask.getJSONArray("messages").toJavaList(JSONObject.class);
        List<Message> messages = new ArrayList<>();
        for (JSONObject each : asked) {
            messages.add(Messages.message(each));
        }
        String mode = ask.containsKey("mode") ? ask.getString("mode") : "sync";
        switch (mode) {
            case "sync":
                return sync(client, asked, messages);
            case "async":
                return async(client, messages);
            case "oneway":
                for (Message message : messages) {
                    client.sendOneway(message);
                }
                return null;
            case "batch":
                return Messages.json(client.send(messages));
            default:
                throw new IllegalArgumentException("unknown mode " + mode);
        }
    }

    private static Object sync(DefaultMQProducer client, List<JSONObject> asked, List<Message> messages)
        throws Exception {
        JSONArray results = new JSONArray();
        for (int i = 0; i < messages.size(); i++) {
            results.add(Messages.json(asked.get(i).containsKey("broker")
                ? client.send(messages.get(i), Messages.queue(asked.get(i)))
                : client.send(messages.get(i))));
        }
        return results;
    }

    private static Object async(DefaultMQProducer client, List<Message> messages) throws Exception {
        Object[] results = new Object[messages.size()];
        CountDownLatch open = new CountDownLatch(messages.size());
        for (int i = 0; i < messages.size(); i++) {
            int place = i;
            client.send(messages.get(i), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    results[place] = Messages.json(result);
                    open.countDown();
                }

                @Override
                public void onException(Throwable thrown) {
                    JSONObject failed = new JSONObject();
                    failed.put("error", Driver.error(thrown));
                    results[place] = failed;
                    open.countDown();
                }
            });
        }
        if (!open.await(60, TimeUnit.SECONDS)) {
            throw new IllegalStateException(open.getCount() + " callbacks did not come");
        }
        return results;
    }
}
