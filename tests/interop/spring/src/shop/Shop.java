package shop;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.spring.core.RocketMQTemplate;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.messaging.Message;
import org.springframework.messaging.support.MessageBuilder;
import org.springframework.stereotype.Component;

/**
 * A Spring Boot application that uses RocketMQ as its starter means it to be used. A test asks it for things
 * by the line protocol of the other drivers (see java/…/Driver.java).
 */
@SpringBootApplication
public class Shop {
    private static final long TIMEOUT_MS = 10_000;

    /** Reads orders. */
    @Component
    public static class Orders {
        private final ObjectMapper json = new ObjectMapper();

        Order read(byte[] body) {
            try {
                return json.readValue(body, Order.class);
            } catch (IOException error) {
                throw new UncheckedIOException(error);
            }
        }
    }

    private final ObjectMapper json = new ObjectMapper();
    private final RocketMQTemplate template;
    private final Journal journal;

    Shop(RocketMQTemplate template, Journal journal) {
        this.template = template;
        this.journal = journal;
    }

    public static void main(String[] args) throws Exception {
        PrintStream answers = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        try (ConfigurableApplicationContext context = SpringApplication.run(Shop.class, args)) {
            context.getBean(Shop.class).serve(answers);
        }
        System.exit(0);
    }

    private void serve(PrintStream answers) throws IOException {
        BufferedReader asks = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = asks.readLine(); line != null; line = asks.readLine()) {
            JsonNode ask = json.readTree(line);
            Map<String, Object> answer = new LinkedHashMap<>();
            answer.put("id", ask.get("id").asInt());
            try {
                answer.put("result", run(ask));
            } catch (Exception error) {
                error.printStackTrace();
                answer.put("error", Map.of(
                    "type", error.getClass().getSimpleName(), "code", -1, "message", String.valueOf(error)));
            }
            answers.println(json.writeValueAsString(answer));
        }
    }

    private Object run(JsonNode ask) throws Exception {
        switch (ask.get("do").asText()) {
            case "send":
                return send(ask);
            case "request":
                return template.sendAndReceive(
                    ask.get("to").asText(), order(ask.get("order")), String.class, TIMEOUT_MS);
            case "pull":
                return template.receive(String.class, ask.get("wait_ms").asLong());
            case "received":
                return journal.entries(
                    ask.get("listener").asText(), ask.get("count").asInt(), ask.get("wait_ms").asLong());
            default:
                throw new IllegalArgumentException("unknown verb " + ask.get("do"));
        }
    }

    private Object send(JsonNode ask) throws Exception {
        String to = ask.get("to").asText();
        Message<?> message = message(ask);
        switch (ask.get("how").asText()) {
            case "sync":
                return sent(template.syncSend(to, message));
            case "async":
                CompletableFuture<SendResult> future = new CompletableFuture<>();
                template.asyncSend(to, message, new SendCallback() {
                    @Override
                    public void onSuccess(SendResult result) {
                        future.complete(result);
                    }

                    @Override
                    public void onException(Throwable error) {
                        future.completeExceptionally(error);
                    }
                });
                return sent(future.get(TIMEOUT_MS, TimeUnit.MILLISECONDS));
            case "oneway":
                template.sendOneWay(to, message);
                return null;
            case "plain":
                template.convertAndSend(to, message.getPayload());
                return null;
            case "ordered":
                return sent(template.syncSendOrderly(to, message, ask.get("hash").asText()));
            case "level":
                return sent(template.syncSend(to, message, TIMEOUT_MS, ask.get("level").asInt()));
            case "delay":
                return sent(template.syncSendDelayTimeMills(to, message, ask.get("delay_ms").asLong()));
            case "batch":
                List<Message<?>> messages = new ArrayList<>();
                for (JsonNode each : ask.get("orders")) {
                    messages.add(MessageBuilder.withPayload(order(each)).build());
                }
                return sent(template.syncSend(to, messages));
            case "transaction":
                TransactionSendResult result =
                    template.sendMessageInTransaction(to, message, ask.get("decision").asText());
                Map<String, Object> told = sent(result);
                told.put("state", result.getLocalTransactionState().name());
                return told;
            default:
                throw new IllegalArgumentException("unknown way to send " + ask.get("how"));
        }
    }

    private Message<?> message(JsonNode ask) throws IOException {
        MessageBuilder<?> builder = ask.has("text")
            ? MessageBuilder.withPayload(ask.get("text").asText())
            : MessageBuilder.withPayload(order(ask.path("order")));
        if (ask.has("headers")) {
            ask.get("headers").fields().forEachRemaining(
                each -> builder.setHeader(each.getKey(), each.getValue().asText()));
        }
        return builder.build();
    }

    private Order order(JsonNode node) throws IOException {
        return node.isMissingNode() ? new Order() : json.treeToValue(node, Order.class);
    }

    private static Map<String, Object> sent(SendResult result) {
        Map<String, Object> told = new LinkedHashMap<>();
        told.put("status", result.getSendStatus().name());
        told.put("msg_id", result.getMsgId());
        return told;
    }
}
