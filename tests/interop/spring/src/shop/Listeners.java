package shop;

import java.util.Map;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.spring.annotation.ConsumeMode;
import org.apache.rocketmq.spring.annotation.MessageModel;
import org.apache.rocketmq.spring.annotation.RocketMQMessageListener;
import org.apache.rocketmq.spring.annotation.RocketMQTransactionListener;
import org.apache.rocketmq.spring.annotation.SelectorType;
import org.apache.rocketmq.spring.core.RocketMQListener;
import org.apache.rocketmq.spring.core.RocketMQLocalTransactionListener;
import org.apache.rocketmq.spring.core.RocketMQLocalTransactionState;
import org.apache.rocketmq.spring.core.RocketMQReplyListener;
import org.springframework.messaging.Message;
import org.springframework.stereotype.Component;

/** The listeners of the shop, as an application of the starter has them. */
final class Listeners {
    private Listeners() {
    }

    /** Sees the message itself, and fails as often as the order says. */
    @Component
    @RocketMQMessageListener(topic = "${shop.orders}", consumerGroup = "${shop.group}-stock")
    static class Stock implements RocketMQListener<MessageExt> {
        private final Journal journal;
        private final Shop.Orders orders;

        Stock(Journal journal, Shop.Orders orders) {
            this.journal = journal;
            this.orders = orders;
        }

        @Override
        public void onMessage(MessageExt message) {
            Order order = orders.read(message.getBody());
            journal.add("stock", Map.of(
                "id", order.id,
                "msg_id", message.getMsgId(),
                "tags", String.valueOf(message.getTags()),
                "keys", String.valueOf(message.getKeys()),
                "reconsume_times", message.getReconsumeTimes(),
                "at_ms", System.currentTimeMillis()));
            if (message.getReconsumeTimes() < order.failures) {
                throw new IllegalStateException(order.id + " is not in stock yet");
            }
        }
    }

    /** Sees orders, those of one tag only. */
    @Component
    @RocketMQMessageListener(topic = "${shop.orders}", consumerGroup = "${shop.group}-gifts",
        selectorExpression = "gift || toy")
    static class Gifts implements RocketMQListener<Order> {
        private final Journal journal;

        Gifts(Journal journal) {
            this.journal = journal;
        }

        @Override
        public void onMessage(Order order) {
            journal.add("gifts", Map.of("id", order.id, "cents", order.cents));
        }
    }

    /** Sees the expensive ones, which the broker picks by SQL92. */
    @Component
    @RocketMQMessageListener(topic = "${shop.orders}", consumerGroup = "${shop.group}-audit",
        selectorType = SelectorType.SQL92, selectorExpression = "worth > 1000")
    static class Audit implements RocketMQListener<Order> {
        private final Journal journal;

        Audit(Journal journal) {
            this.journal = journal;
        }

        @Override
        public void onMessage(Order order) {
            journal.add("audit", Map.of("id", order.id));
        }
    }

    /** Sees what was sent in order, one after the other. */
    @Component
    @RocketMQMessageListener(topic = "${shop.steps}", consumerGroup = "${shop.group}-steps",
        consumeMode = ConsumeMode.ORDERLY)
    static class Steps implements RocketMQListener<String> {
        private final Journal journal;

        Steps(Journal journal) {
            this.journal = journal;
        }

        @Override
        public void onMessage(String step) {
            journal.add("steps", Map.of("step", step));
        }
    }

    /** Sees all that is announced. */
    @Component
    @RocketMQMessageListener(topic = "${shop.news}", consumerGroup = "${shop.group}-news",
        messageModel = MessageModel.BROADCASTING)
    static class News implements RocketMQListener<String> {
        private final Journal journal;

        News(Journal journal) {
            this.journal = journal;
        }

        @Override
        public void onMessage(String news) {
            journal.add("news", Map.of("news", news));
        }
    }

    /** Replies to requests. */
    @Component
    @RocketMQMessageListener(topic = "${shop.prices}", consumerGroup = "${shop.group}-prices")
    static class Prices implements RocketMQReplyListener<Order, String> {
        @Override
        public String onMessage(Order order) {
            return order.id + " costs " + order.cents;
        }
    }

    /** Decides transactions by their keys: "commit", "rollback", or "unknown", which is committed when asked. */
    @RocketMQTransactionListener
    static class Payments implements RocketMQLocalTransactionListener {
        private final Journal journal;

        Payments(Journal journal) {
            this.journal = journal;
        }

        @Override
        public RocketMQLocalTransactionState executeLocalTransaction(Message message, Object decision) {
            journal.add("payments", Map.of("decision", decision));
            return RocketMQLocalTransactionState.valueOf((String) decision);
        }

        @Override
        public RocketMQLocalTransactionState checkLocalTransaction(Message message) {
            journal.add("checks", Map.of("keys", String.valueOf(message.getHeaders().get("rocketmq_KEYS"))));
            return RocketMQLocalTransactionState.COMMIT;
        }
    }
}
