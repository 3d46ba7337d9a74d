package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.lang.reflect.Method;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.admin.ConsumeStats;
import org.apache.rocketmq.common.admin.OffsetWrapper;
import org.apache.rocketmq.common.admin.TopicOffset;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.protocol.body.ClusterInfo;
import org.apache.rocketmq.common.protocol.body.Connection;
import org.apache.rocketmq.common.protocol.body.ConsumerConnection;
import org.apache.rocketmq.common.protocol.body.TopicConfigSerializeWrapper;
import org.apache.rocketmq.common.protocol.route.BrokerData;
import org.apache.rocketmq.common.protocol.route.QueueData;
import org.apache.rocketmq.common.protocol.route.TopicRouteData;
import org.apache.rocketmq.common.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** RocketMQ's admin API: "start_admin", then {"do": "admin", "op": ...}. */
final class Admins {
    /** One operation of the admin API. */
    interface Operation {
        Object run(DefaultMQAdminExt client, JSONObject ask) throws Exception;
    }

    private final Driver driver;
    private final Map<String, Operation> operations = new TreeMap<>();

    Admins(Driver driver) {
        this.driver = driver;
        driver.on("start_admin", this::start);
        driver.on("admin", this::run);
        topics();
        groups();
        brokers();
        nameServers();
        OffsetAdmins.register(operations);
    }

    private static final class Admin implements Driver.Running {
        final DefaultMQAdminExt client;

        Admin(DefaultMQAdminExt client) {
            this.client = client;
        }

        @Override
        public void stop() {
            client.shutdown();
        }
    }

    private Object start(JSONObject ask) throws Exception {
        DefaultMQAdminExt client = new DefaultMQAdminExt(30_000L);
        client.setNamesrvAddr(ask.getString("namesrv"));
        client.setInstanceName(driver.instanceName());
        client.start();
        driver.started(ask.getString("name"), new Admin(client));
        return null;
    }

    private Object run(JSONObject ask) throws Exception {
        Operation operation = operations.get(ask.getString("op"));
        if (operation == null) {
            throw new IllegalArgumentException("unknown operation " + ask.getString("op") + " of " + operations.keySet());
        }
        return operation.run(driver.get(ask.getString("name"), Admin.class).client, ask);
    }

    private void topics() {
        operations.put("create_topic", (client, ask) -> {
            TopicConfig config = new TopicConfig(ask.getString("topic"));
            config.setReadQueueNums(ask.getIntValue("queues"));
            config.setWriteQueueNums(ask.getIntValue("queues"));
            if (ask.containsKey("perm")) {
                config.setPerm(ask.getIntValue("perm"));
            }
            client.createAndUpdateTopicConfig(ask.getString("addr"), config);
            return null;
        });
        operations.put("delete_topic", (client, ask) -> {
            client.deleteTopicInBroker(Collections.singleton(ask.getString("addr")), ask.getString("topic"));
            return null;
        });
        operations.put("delete_topic_in_name_server", Admins::deleteTopicInNameServer);
        operations.put("topic_list", (client, ask) -> client.fetchAllTopicList().getTopicList());
        operations.put("topic_route", (client, ask) -> route(client.examineTopicRouteInfo(ask.getString("topic"))));
        operations.put("topic_stats", (client, ask) -> {
            JSONArray rows = new JSONArray();
            for (Map.Entry<MessageQueue, TopicOffset> entry : new TreeMap<>(
                client.examineTopicStats(ask.getString("topic")).getOffsetTable()).entrySet()) {
                JSONObject row = Messages.json(entry.getKey());
                row.put("min", entry.getValue().getMinOffset());
                row.put("max", entry.getValue().getMaxOffset());
                row.put("last_ms", entry.getValue().getLastUpdateTimestamp());
                rows.add(row);
            }
            return rows;
        });
        operations.put("topic_configs", Admins::topicConfigs);
    }

    private void groups() {
        operations.put("create_group", (client, ask) -> {
            SubscriptionGroupConfig config = new SubscriptionGroupConfig();
            config.setGroupName(ask.getString("group"));
            if (ask.containsKey("retry_max_times")) {
                config.setRetryMaxTimes(ask.getIntValue("retry_max_times"));
            }
            if (ask.containsKey("consume_enable")) {
                config.setConsumeEnable(ask.getBooleanValue("consume_enable"));
            }
            client.createAndUpdateSubscriptionGroupConfig(ask.getString("addr"), config);
            return null;
        });
        operations.put("delete_group", (client, ask) -> {
            client.deleteSubscriptionGroup(ask.getString("addr"), ask.getString("group"));
            return null;
        });
        operations.put("groups", (client, ask) -> {
            JSONObject json = new JSONObject();
            for (SubscriptionGroupConfig group : client.getAllSubscriptionGroup(ask.getString("addr"), 30_000)
                .getSubscriptionGroupTable().values()) {
                JSONObject row = new JSONObject();
                row.put("retry_max_times", group.getRetryMaxTimes());
                row.put("retry_queues", group.getRetryQueueNums());
                row.put("consume_enable", group.isConsumeEnable());
                json.put(group.getGroupName(), row);
            }
            return json;
        });
        operations.put("consume_stats", (client, ask) -> stats(client.examineConsumeStats(ask.getString("group"))));
        operations.put("consumer_connection", (client, ask) -> {
            ConsumerConnection found = client.examineConsumerConnectionInfo(ask.getString("group"));
            JSONObject json = new JSONObject();
            JSONArray rows = new JSONArray();
            for (Connection connection : found.getConnectionSet()) {
                JSONObject row = new JSONObject();
                row.put("client_id", connection.getClientId());
                row.put("addr", connection.getClientAddr());
                row.put("language", String.valueOf(connection.getLanguage()));
                row.put("version", connection.getVersion());
                rows.add(row);
            }
            json.put("connections", rows);
            json.put("topics", found.getSubscriptionTable().keySet());
            json.put("from", String.valueOf(found.getConsumeFromWhere()));
            json.put("model", String.valueOf(found.getMessageModel()));
            return json;
        });
    }

    private void brokers() {
        operations.put("cluster_info", (client, ask) -> cluster(client.examineBrokerClusterInfo()));
        operations.put("runtime_stats", (client, ask) ->
            client.fetchBrokerRuntimeStats(ask.getString("addr")).getTable());
        operations.put("broker_config", (client, ask) -> client.getBrokerConfig(ask.getString("addr")));
        operations.put("update_broker_config", (client, ask) -> {
            client.updateBrokerConfig(ask.getString("addr"), properties(ask));
            return null;
        });
    }

    private void nameServers() {
        operations.put("wipe_write_perm", (client, ask) ->
            client.wipeWritePermOfBroker(ask.getString("addr"), ask.getString("broker")));
        operations.put("put_kv", (client, ask) -> {
            client.createAndUpdateKvConfig(ask.getString("namespace"), ask.getString("key"), ask.getString("value"));
            return null;
        });
        operations.put("get_kv", (client, ask) ->
            client.getKVConfig(ask.getString("namespace"), ask.getString("key")));
        operations.put("list_kv", (client, ask) ->
            client.getKVListByNamespace(ask.getString("namespace")).getTable());
        operations.put("delete_kv", (client, ask) -> {
            client.deleteKvConfig(ask.getString("namespace"), ask.getString("key"));
            return null;
        });
        operations.put("name_server_config", (client, ask) ->
            client.getNameServerConfig(Collections.singletonList(ask.getString("addr"))).get(ask.getString("addr")));
        operations.put("update_name_server_config", (client, ask) -> {
            client.updateNameServerConfig(properties(ask), Collections.singletonList(ask.getString("addr")));
            return null;
        });
    }

    private static Properties properties(JSONObject ask) {
        Properties properties = new Properties();
        for (Map.Entry<String, Object> each : ask.getJSONObject("properties").entrySet()) {
            properties.setProperty(each.getKey(), String.valueOf(each.getValue()));
        }
        return properties;
    }

    /** 4.9.4 wants the cluster's name as a third argument (its signature names the last two the wrong way round). */
    private static Object deleteTopicInNameServer(DefaultMQAdminExt client, JSONObject ask) throws Exception {
        for (Method method : DefaultMQAdminExt.class.getMethods()) {
            if (method.getName().equals("deleteTopicInNameServer")) {
                java.util.Set<String> addrs = Collections.singleton(ask.getString("addr"));
                return method.getParameterCount() == 2
                    ? method.invoke(client, addrs, ask.getString("topic"))
                    : method.invoke(client, addrs, ask.getString("topic"), ask.getString("cluster"));
            }
        }
        throw new NoSuchMethodException("deleteTopicInNameServer");
    }

    /** The method was called getAllTopicGroup before it became getAllTopicConfig. */
    private static Object topicConfigs(DefaultMQAdminExt client, JSONObject ask) throws Exception {
        Method method;
        try {
            method = DefaultMQAdminExt.class.getMethod("getAllTopicConfig", String.class, long.class);
        } catch (NoSuchMethodException older) {
            method = DefaultMQAdminExt.class.getMethod("getAllTopicGroup", String.class, long.class);
        }
        TopicConfigSerializeWrapper found =
            (TopicConfigSerializeWrapper) method.invoke(client, ask.getString("addr"), 30_000L);
        JSONObject json = new JSONObject();
        for (TopicConfig config : found.getTopicConfigTable().values()) {
            JSONObject row = new JSONObject();
            row.put("read_queues", config.getReadQueueNums());
            row.put("write_queues", config.getWriteQueueNums());
            row.put("perm", config.getPerm());
            json.put(config.getTopicName(), row);
        }
        return json;
    }

    private static JSONObject addresses(BrokerData broker) {
        JSONObject json = new JSONObject(true);
        for (Map.Entry<Long, String> address : new TreeMap<>(broker.getBrokerAddrs()).entrySet()) {
            json.put(String.valueOf(address.getKey()), address.getValue());
        }
        return json;
    }

    private static JSONObject route(TopicRouteData route) {
        JSONArray brokers = new JSONArray();
        for (BrokerData broker : route.getBrokerDatas()) {
            JSONObject row = new JSONObject();
            row.put("cluster", broker.getCluster());
            row.put("name", broker.getBrokerName());
            row.put("addrs", addresses(broker));
            brokers.add(row);
        }
        JSONArray queues = new JSONArray();
        List<QueueData> datas = route.getQueueDatas();
        for (QueueData data : datas) {
            JSONObject row = new JSONObject();
            row.put("broker", data.getBrokerName());
            row.put("read_queues", data.getReadQueueNums());
            row.put("write_queues", data.getWriteQueueNums());
            row.put("perm", data.getPerm());
            queues.add(row);
        }
        JSONObject json = new JSONObject();
        json.put("brokers", brokers);
        json.put("queues", queues);
        json.put("order_conf", route.getOrderTopicConf());
        return json;
    }

    private static JSONObject cluster(ClusterInfo info) {
        JSONObject brokers = new JSONObject();
        for (Map.Entry<String, BrokerData> broker : info.getBrokerAddrTable().entrySet()) {
            brokers.put(broker.getKey(), addresses(broker.getValue()));
        }
        JSONObject json = new JSONObject();
        json.put("clusters", info.getClusterAddrTable());
        json.put("brokers", brokers);
        return json;
    }

    private static JSONArray stats(ConsumeStats stats) {
        JSONArray rows = new JSONArray();
        for (Map.Entry<MessageQueue, OffsetWrapper> entry : new TreeMap<>(stats.getOffsetTable()).entrySet()) {
            JSONObject row = Messages.json(entry.getKey());
            row.put("broker_offset", entry.getValue().getBrokerOffset());
            row.put("consumer_offset", entry.getValue().getConsumerOffset());
            row.put("last_ms", entry.getValue().getLastTimestamp());
            rows.add(row);
        }
        return rows;
    }
}
