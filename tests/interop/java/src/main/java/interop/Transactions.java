package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Transaction producers: "start_transactions", "send_in_transaction", "checks".
 *
 * A message says itself what becomes of it: its "local" is what the local transaction does, its property
 * "checks" what the checks answer, one after the other with the last one repeated, so that any producer of
 * the group can be asked. Words: COMMIT, ROLLBACK, UNKNOW, null, throw, and halt, which ends the process.
 */
final class Transactions {
    private static final String CHECKS = "checks";
    private final Driver driver;

    Transactions(Driver driver) {
        this.driver = driver;
        driver.on("start_transactions", this::start);
        driver.on("send_in_transaction", this::send);
        driver.on("checks", ask -> {
            List<JSONObject> checks = driver.get(ask.getString("name"), Producer.class).checks;
            synchronized (checks) {
                return new JSONArray(new ArrayList<>(checks));
            }
        });
    }

    private static final class Producer implements Driver.Running, TransactionListener {
        final TransactionMQProducer client;
        final List<JSONObject> checks = new ArrayList<>();
        /** Whether it decides nothing when it is asked. */
        final boolean isUndecided;

        Producer(TransactionMQProducer client, boolean isUndecided) {
            this.client = client;
            this.isUndecided = isUndecided;
        }

        @Override
        public LocalTransactionState executeLocalTransaction(Message message, Object word) {
            return state(String.valueOf(word));
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt message) {
            String[] words = message.getUserProperty(CHECKS).split(",");
            String times = message.getProperty(MessageConst.PROPERTY_TRANSACTION_CHECK_TIMES);
            String word = words[Math.min(Integer.parseInt(times), words.length) - 1];
            JSONObject check = Messages.json(message, null);
            check.put("transaction_id", message.getTransactionId());
            check.put("at_ms", System.currentTimeMillis());
            check.put("answer", word);
            synchronized (checks) {
                checks.add(check);
            }
            return isUndecided ? LocalTransactionState.UNKNOW : state(word);
        }

        @Override
        public void stop() {
            client.shutdown();
        }
    }

    private static LocalTransactionState state(String word) {
        switch (word) {
            case "COMMIT":
                return LocalTransactionState.COMMIT_MESSAGE;
            case "ROLLBACK":
                return LocalTransactionState.ROLLBACK_MESSAGE;
            case "UNKNOW":
                return LocalTransactionState.UNKNOW;
            case "null":
                return null;
            case "halt":
                Runtime.getRuntime().halt(1);
                return null;
            default:
                throw new IllegalStateException(word);
        }
    }

    private Object start(JSONObject ask) throws Exception {
        TransactionMQProducer client = Traces.transactions(ask);
        Producer producer = new Producer(client, ask.getBooleanValue("undecided"));
        client.setNamesrvAddr(ask.getString("namesrv"));
        client.setInstanceName(driver.instanceName());
        client.setHeartbeatBrokerInterval(500); // known soon to a broker that starts anew
        client.setSendMsgTimeout(30_000); // no half message is sent twice because the machine paused
        client.setTransactionListener(producer);
        client.start();
        driver.started(ask.getString("name"), producer);
        return client.buildMQClientId();
    }

    private Object send(JSONObject ask) throws Exception {
        TransactionMQProducer client = driver.get(ask.getString("name"), Producer.class).client;
        JSONArray results = new JSONArray();
        for (JSONObject each : ask.getJSONArray("messages").toJavaList(JSONObject.class)) {
            Message message = Messages.message(each);
            message.putUserProperty(CHECKS, each.containsKey(CHECKS) ? each.getString(CHECKS) : "throw");
            TransactionSendResult sent = client.sendMessageInTransaction(message, each.getString("local"));
            JSONObject result = Messages.json(sent);
            result.put("transaction_id", message.getTransactionId());
            result.put("state", sent.getLocalTransactionState().name());
            results.add(result);
        }
        return results;
    }
}
