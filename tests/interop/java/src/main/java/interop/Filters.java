package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.filter.expression.BooleanExpression;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.parser.SelectorParser;
import org.apache.rocketmq.filter.util.BloomFilter;

/** RocketMQ's own SQL92 and bloom filter: "sql92", "bloom". No broker takes part. */
final class Filters {
    Filters(Driver driver) {
        driver.on("sql92", this::sql92);
        driver.on("bloom", this::bloom);
    }

    /** For each expression null when it does not compile, else "t", "f", "n" (NULL) or "e" (fails) per property map. */
    private Object sql92(JSONObject ask) {
        List<Map<String, String>> messages = new ArrayList<>();
        JSONArray asked = ask.getJSONArray("properties");
        for (int i = 0; i < asked.size(); i++) {
            Map<String, String> properties = new HashMap<>();
            asked.getJSONObject(i).forEach((name, value) -> properties.put(name, (String) value));
            messages.add(properties);
        }
        List<String> results = new ArrayList<>();
        for (Object expression : ask.getJSONArray("expressions")) {
            results.add(evaluate((String) expression, messages));
        }
        return results;
    }

    private static String evaluate(String text, List<Map<String, String>> messages) {
        BooleanExpression expression;
        try {
            expression = SelectorParser.parse(text);
        } catch (Throwable refused) {
            return null;
        }
        StringBuilder results = new StringBuilder();
        for (Map<String, String> properties : messages) {
            try {
                Object result = expression.evaluate(new Properties(properties));
                results.append(result == null ? 'n' : result.equals(true) ? 't' : result.equals(false) ? 'f' : '?');
            } catch (Throwable failed) {
                results.append('e');
            }
        }
        return results.toString();
    }

    /** The bit positions of a text. */
    private Object bloom(JSONObject ask) {
        BloomFilter filter = BloomFilter.createByFn(ask.getIntValue("error_rate"), ask.getIntValue("count"));
        List<Object> positions = new ArrayList<>();
        for (Object text : ask.getJSONArray("texts")) {
            positions.add(filter.calcBitPositions((String) text));
        }
        return Map.of("bits", filter.getM(), "positions", positions);
    }

    private static final class Properties implements EvaluationContext {
        private final Map<String, String> properties;

        Properties(Map<String, String> properties) {
            this.properties = properties;
        }

        @Override
        public Object get(String name) {
            return properties.get(name);
        }

        @Override
        public Map<String, Object> keyValues() {
            return new HashMap<>(properties);
        }
    }
}
