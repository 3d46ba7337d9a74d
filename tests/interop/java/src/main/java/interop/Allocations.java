package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import org.apache.rocketmq.client.consumer.AllocateMessageQueueStrategy;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMachineRoomNearby;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragelyByCircle;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueByConfig;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueByMachineRoom;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueConsistentHash;
import org.apache.rocketmq.common.message.MessageQueue;

/** The client's rules for sharing queues: "allocate" gives the shares for a list of cases. */
final class Allocations {
    Allocations(Driver driver) {
        driver.on("allocate", this::allocate);
    }

    private Object allocate(JSONObject ask) {
        JSONArray shares = new JSONArray();
        for (Object each : ask.getJSONArray("cases")) {
            shares.add(share((JSONObject) each));
        }
        return shares;
    }

    /** One member's share. As a consumer does before it asks the strategy, queues and ids are sorted here. */
    private static List<String> share(JSONObject given) {
        List<MessageQueue> queues = queues(given.getJSONArray("queues"));
        List<String> ids = new ArrayList<>(given.getJSONArray("ids").toJavaList(String.class));
        Collections.sort(queues);
        Collections.sort(ids);
        List<String> share = new ArrayList<>();
        for (MessageQueue queue : strategy(given, given.getString("name"))
            .allocate("group", given.getString("own"), queues, ids)) {
            share.add(queue.getBrokerName() + ":" + queue.getQueueId());
        }
        return share;
    }

    private static List<MessageQueue> queues(JSONArray names) {
        List<MessageQueue> queues = new ArrayList<>();
        for (String name : names.toJavaList(String.class)) {
            int colon = name.lastIndexOf(':');
            queues.add(new MessageQueue("orders", name.substring(0, colon),
                Integer.parseInt(name.substring(colon + 1))));
        }
        return queues;
    }

    private static AllocateMessageQueueStrategy strategy(JSONObject given, String name) {
        switch (name) {
            case "AVG":
                return new AllocateMessageQueueAveragely();
            case "AVG_BY_CIRCLE":
                return new AllocateMessageQueueAveragelyByCircle();
            case "CONSISTENT_HASH":
                return new AllocateMessageQueueConsistentHash();
            case "CONFIG":
                AllocateMessageQueueByConfig config = new AllocateMessageQueueByConfig();
                config.setMessageQueueList(queues(given.getJSONArray("config")));
                return config;
            case "MACHINE_ROOM":
                AllocateMessageQueueByMachineRoom rooms = new AllocateMessageQueueByMachineRoom();
                rooms.setConsumeridcs(new HashSet<>(given.getJSONArray("rooms").toJavaList(String.class)));
                return rooms;
            default:
                return nearby(strategy(given, name.substring("MACHINE_ROOM_NEARBY-".length())));
        }
    }

    /** A room's name is what stands before the first '@'. */
    private static AllocateMessageQueueStrategy nearby(AllocateMessageQueueStrategy inner) {
        return new AllocateMachineRoomNearby(inner, new AllocateMachineRoomNearby.MachineRoomResolver() {
            @Override
            public String brokerDeployIn(MessageQueue queue) {
                return queue.getBrokerName().split("@")[0];
            }

            @Override
            public String consumerDeployIn(String clientId) {
                return clientId.split("@")[0];
            }
        });
    }
}
