package interop;

import com.alibaba.fastjson.JSONArray;
import com.alibaba.fastjson.JSONObject;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/**
 * Producers that send all the time, whatever happens to the brokers: "start_steady_producer", "sent";
 * and "taken", what a consumer got, in few words.
 */
final class SteadyProducers {
    private final Driver driver;

    SteadyProducers(Driver driver) {
        this.driver = driver;
        driver.on("start_steady_producer", this::start);
        driver.on("sent", this::sent);
        driver.on("taken", this::taken);
    }

    /** Threads that send one message after the other, each with a body of its own, and note what became of it. */
    static final class Steady implements Driver.Running {
        final DefaultMQProducer client;
        final JSONArray answers = new JSONArray();
        final JSONArray errors = new JSONArray();
        private final String topic;
        private final int pauseMs;
        private final AtomicInteger next = new AtomicInteger();
        private final List<Thread> threads = new ArrayList<>();
        private volatile boolean stopping;

        Steady(DefaultMQProducer client, String topic, int threads, int pauseMs) {
            this.client = client;
            this.topic = topic;
            this.pauseMs = pauseMs;
            for (int i = 0; i < threads; i++) {
                this.threads.add(new Thread(this::send, "steady-" + i));
            }
        }

        private void send() {
            while (!stopping) {
                String body = "java-" + next.getAndIncrement();
                try {
                    SendResult result = client.send(new Message(topic, body.getBytes(StandardCharsets.UTF_8)));
                    JSONObject answer = Messages.json(result);
                    answer.put("body", body);
                    synchronized (this) {
                        answers.add(answer);
                        notifyAll();
                    }
                    Thread.sleep(pauseMs);
                } catch (InterruptedException stopped) {
                    return;
                } catch (Exception thrown) {
                    synchronized (this) {
                        errors.add(body + ": " + thrown);
                        notifyAll();
                    }
                }
            }
        }

        /** How many were answered with SEND_OK by a broker. */
        private int count(String broker) {
            int count = 0;
            for (Object answer : answers) {
                JSONObject each = (JSONObject) answer;
                count += "SEND_OK".equals(each.get("status")) && broker.equals(each.get("broker")) ? 1 : 0;
            }
            return count;
        }

        /** All that was answered so far, once so many more were acknowledged by a broker. */
        synchronized JSONObject await(String broker, int more, long waitMs) throws InterruptedException {
            long end = System.nanoTime() + waitMs * 1_000_000;
            int wanted = more > 0 ? count(broker) + more : 0;
            for (long leftMs = waitMs; wanted > 0 && leftMs > 0 && count(broker) < wanted;
                 leftMs = (end - System.nanoTime()) / 1_000_000) {
                wait(leftMs);
            }
            if (count(broker) < wanted) {
                throw new IllegalStateException(broker + " has acknowledged " + count(broker) + ", expected " + wanted
                    + "; errors: " + errors);
            }
            JSONObject found = new JSONObject();
            found.put("answers", answers.clone());
            found.put("errors", errors.clone());
            return found;
        }

        @Override
        public void stop() throws InterruptedException {
            stopping = true;
            for (Thread thread : threads) {
                thread.join();
            }
        }
    }

    private Object start(JSONObject ask) throws Exception {
        DefaultMQProducer client = new DefaultMQProducer(ask.getString("group"));
        client.setNamesrvAddr(ask.getString("namesrv"));
        client.setInstanceName(driver.instanceName());
        client.setPollNameServerInterval(1000);
        client.start();
        Steady steady =
            new Steady(client, ask.getString("topic"), ask.getIntValue("threads"), ask.getIntValue("pause_ms"));
        driver.started(ask.getString("name"), steady);
        steady.threads.forEach(Thread::start);
        return client.buildMQClientId();
    }

    /** What was sent; with "stop", once the threads have ended. */
    private Object sent(JSONObject ask) throws Exception {
        Steady steady = driver.get(ask.getString("name"), Steady.class);
        if (ask.getBooleanValue("stop")) {
            steady.stop();
        }
        return steady.await(ask.getString("broker"), ask.getIntValue("more"), ask.getLongValue("wait_ms"));
    }

    /** Body, broker, queue and offset of all that a consumer got so far. */
    private Object taken(JSONObject ask) {
        List<JSONObject> received = driver.get(ask.getString("name"), Consumers.Consumer.class).received;
        JSONArray taken = new JSONArray();
        synchronized (received) {
            for (JSONObject each : received) {
                JSONObject brief = new JSONObject();
                for (String key : List.of("body", "broker", "queue_id", "queue_offset")) {
                    brief.put(key, each.get(key));
                }
                taken.add(brief);
            }
        }
        return taken;
    }
}
