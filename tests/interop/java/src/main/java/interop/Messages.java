package interop;

import com.alibaba.fastjson.JSONObject;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Map;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** RocketMQ's messages, queues and results as the driver's JSON, and back. */
final class Messages {
    private Messages() {
    }

    static Message message(JSONObject from) {
        Message message = new Message();
        message.setTopic(from.getString("topic"));
        message.setBody(from.containsKey("body_base64")
            ? Base64.getDecoder().decode(from.getString("body_base64"))
            : from.getString("body").getBytes(StandardCharsets.UTF_8));
        if (from.containsKey("tags")) {
            message.setTags(from.getString("tags"));
        }
        if (from.containsKey("keys")) {
            message.setKeys(from.getString("keys"));
        }
        if (from.containsKey("delay_level")) {
            message.setDelayTimeLevel(from.getIntValue("delay_level"));
        }
        if (from.containsKey("flag")) {
            message.setFlag(from.getIntValue("flag"));
        }
        if (from.containsKey("properties")) {
            for (Map.Entry<String, Object> property : from.getJSONObject("properties").entrySet()) {
                message.putUserProperty(property.getKey(), String.valueOf(property.getValue()));
            }
        }
        return message;
    }

    static MessageQueue queue(JSONObject from) {
        return new MessageQueue(from.getString("topic"), from.getString("broker"), from.getIntValue("queue_id"));
    }

    static JSONObject json(MessageQueue queue) {
        JSONObject json = new JSONObject(true);
        json.put("topic", queue.getTopic());
        json.put("broker", queue.getBrokerName());
        json.put("queue_id", queue.getQueueId());
        return json;
    }

    static JSONObject json(SendResult result) {
        JSONObject json = json(result.getMessageQueue());
        json.put("status", result.getSendStatus().name());
        json.put("msg_id", result.getMsgId());
        json.put("offset_msg_id", result.getOffsetMsgId());
        json.put("queue_offset", result.getQueueOffset());
        json.put("region_id", result.getRegionId());
        return json;
    }

    static JSONObject json(MessageExt message, String brokerName) {
        JSONObject json = new JSONObject(true);
        json.put("topic", message.getTopic());
        json.put("broker", brokerName);
        json.put("queue_id", message.getQueueId());
        json.put("queue_offset", message.getQueueOffset());
        json.put("commit_log_offset", message.getCommitLogOffset());
        json.put("msg_id", message.getMsgId());
        if (message instanceof MessageClientExt) {
            json.put("offset_msg_id", ((MessageClientExt) message).getOffsetMsgId());
        }
        json.put("tags", message.getTags());
        json.put("keys", message.getKeys());
        json.put("properties", message.getProperties());
        json.put("body", new String(message.getBody(), StandardCharsets.UTF_8));
        json.put("body_base64", Base64.getEncoder().encodeToString(message.getBody()));
        json.put("born_ms", message.getBornTimestamp());
        json.put("born_host", message.getBornHost().toString());
        json.put("store_ms", message.getStoreTimestamp());
        json.put("store_host", message.getStoreHost().toString());
        json.put("store_size", message.getStoreSize());
        json.put("reconsume_times", message.getReconsumeTimes());
        json.put("flag", message.getFlag());
        json.put("sys_flag", message.getSysFlag());
        return json;
    }
}
