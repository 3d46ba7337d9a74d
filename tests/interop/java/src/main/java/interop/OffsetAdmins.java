package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.common.admin.ConsumeStats;
import org.apache.rocketmq.common.admin.OffsetWrapper;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.protocol.body.ConsumeStatsList;
import org.apache.rocketmq.common.protocol.body.ConsumerRunningInfo;
import org.apache.rocketmq.common.protocol.body.QueueTimeSpan;

/** What the admin API can ask about offsets of groups, and do with them. */
final class OffsetAdmins {
    private OffsetAdmins() {
    }

    static void register(Map<String, Admins.Operation> operations) {
        operations.put("reset_offsets", (client, ask) -> rows(client.resetOffsetByTimestamp(
            ask.getString("topic"), ask.getString("group"), ask.getLongValue("time_ms"), ask.getBooleanValue("force"))));
        operations.put("clone_offsets", (client, ask) -> {
            client.cloneGroupOffset(ask.getString("source"), ask.getString("target"), ask.getString("topic"),
                ask.getBooleanValue("offline"));
            return null;
        });
        operations.put("consumer_status", (client, ask) -> {
            JSONObject json = new JSONObject();
            client.getConsumeStatus(ask.getString("topic"), ask.getString("group"), ask.getString("client_id"))
                .forEach((id, offsets) -> json.put(id, rows(offsets)));
            return json;
        });
        operations.put("running_queues", (client, ask) -> {
            ConsumerRunningInfo info =
                client.getConsumerRunningInfo(ask.getString("group"), ask.getString("client_id"), false);
            JSONArray rows = new JSONArray();
            for (MessageQueue queue : new TreeMap<>(info.getMqTable()).keySet()) {
                rows.add(Messages.json(queue));
            }
            return rows;
        });
        operations.put("time_spans", (client, ask) -> {
            List<QueueTimeSpan> spans =
                new ArrayList<>(client.queryConsumeTimeSpan(ask.getString("topic"), ask.getString("group")));
            spans.sort(Comparator.comparing(QueueTimeSpan::getMessageQueue));
            JSONArray rows = new JSONArray();
            for (QueueTimeSpan span : spans) {
                JSONObject row = Messages.json(span.getMessageQueue());
                row.put("min_ms", span.getMinTimeStamp());
                row.put("max_ms", span.getMaxTimeStamp());
                row.put("consumed_ms", span.getConsumeTimeStamp());
                row.put("delay_ms", span.getDelayTime());
                rows.add(row);
            }
            return rows;
        });
        operations.put("broker_consume_stats", (client, ask) -> {
            ConsumeStatsList found = client.fetchConsumeStatsInBroker(ask.getString("addr"), false, 30_000);
            JSONObject json = new JSONObject();
            json.put("total_diff", found.getTotalDiff());
            JSONObject groups = new JSONObject();
            for (Map<String, List<ConsumeStats>> each : found.getConsumeStatsList()) {
                each.forEach((group, topics) -> groups.put(group, committed(topics)));
            }
            json.put("groups", groups);
            return json;
        });
    }

    private static JSONArray committed(List<ConsumeStats> topics) {
        TreeMap<MessageQueue, Long> offsets = new TreeMap<>();
        for (ConsumeStats stats : topics) {
            for (Map.Entry<MessageQueue, OffsetWrapper> entry : stats.getOffsetTable().entrySet()) {
                offsets.put(entry.getKey(), entry.getValue().getConsumerOffset());
            }
        }
        return rows(offsets);
    }

    private static JSONArray rows(Map<MessageQueue, Long> offsets) {
        JSONArray rows = new JSONArray();
        for (Map.Entry<MessageQueue, Long> entry : new TreeMap<>(offsets).entrySet()) {
            JSONObject row = Messages.json(entry.getKey());
            row.put("offset", entry.getValue());
            rows.add(row);
        }
        return rows;
    }
}
