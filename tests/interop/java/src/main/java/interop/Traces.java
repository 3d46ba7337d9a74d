package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.lang.reflect.Method;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.remoting.RPCHook;

/**
 * Message trace: clients with "trace" write it, "decode_trace" reads a trace message's text. RocketMQ has it since
 * 4.4, so all of it is called by name and this compiles against older versions, too.
 */
final class Traces {
    private Traces() {
    }

    static void register(Driver driver) {
        driver.on("decode_trace", ask -> decode(ask.getString("text")));
    }

    static DefaultMQProducer producer(JSONObject ask) throws Exception {
        String group = ask.getString("group");
        return ask.getBooleanValue("trace")
            ? DefaultMQProducer.class.getConstructor(String.class, boolean.class).newInstance(group, true)
            : new DefaultMQProducer(group);
    }

    static DefaultMQPushConsumer consumer(JSONObject ask) throws Exception {
        String group = ask.getString("group");
        return ask.getBooleanValue("trace")
            ? DefaultMQPushConsumer.class.getConstructor(String.class, boolean.class).newInstance(group, true)
            : new DefaultMQPushConsumer(group);
    }

    static TransactionMQProducer transactions(JSONObject ask) throws Exception {
        String group = ask.getString("group");
        return ask.getBooleanValue("trace")
            ? TransactionMQProducer.class
                .getConstructor(String.class, String.class, RPCHook.class, boolean.class, String.class)
                .newInstance(null, group, null, true, null)
            : new TransactionMQProducer(group);
    }

    /** Each record as Java reads it: what its getters give, the context's and the bean's. */
    private static Object decode(String text) throws Exception {
        JSONArray records = new JSONArray();
        List<?> contexts = (List<?>) Class.forName("org.apache.rocketmq.client.trace.TraceDataEncoder")
            .getMethod("decoderFromTraceDataString", String.class).invoke(null, text);
        for (Object context : contexts) {
            Map<String, String> read = new TreeMap<>();
            List<?> beans = (List<?>) context.getClass().getMethod("getTraceBeans").invoke(context);
            read(context, read);
            read(beans.get(0), read);
            records.add(new JSONObject(new TreeMap<>(read)));
        }
        return records;
    }

    private static void read(Object from, Map<String, String> into) throws Exception {
        for (Method method : from.getClass().getMethods()) {
            String name = method.getName().replaceFirst("^(get|is)", "");
            boolean isGetter = method.getParameterCount() == 0 && !name.equals(method.getName());
            if (isGetter && !List.of("Class", "TraceBeans").contains(name)) {
                into.put(name, String.valueOf(method.invoke(from)));
            }
        }
    }
}
