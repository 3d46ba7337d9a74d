package interop;

import com.alibaba.fastjson.JSON;
import com.alibaba.fastjson.JSONObject;
import com.alibaba.fastjson.serializer.SerializerFeature;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Runs RocketMQ's Java client on behalf of a test: one JSON object a line on standard input asks for
 * something ({"id": 7, "do": "send", ...}), one JSON object a line on standard output answers it
 * ({"id": 7, "result": ...} or {"id": 7, "error": {"type", "code", "message"}}). Asks are worked off
 * one after the other; the end of standard input ends the process.
 */
public final class Driver {
    /** One verb of the protocol. */
    interface Command {
        Object run(JSONObject ask) throws Exception;
    }

    /** Something started by name, which "stop" ends. */
    interface Running {
        void stop() throws Exception;
    }

    private final Map<String, Command> commands = new LinkedHashMap<>();
    private final Map<String, Running> running = new LinkedHashMap<>();
    private int instances = 0;

    public static void main(String[] args) throws Exception {
        PrintStream answers = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        new Driver().serve(new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)), answers);
        System.exit(0);
    }

    private Driver() {
        on("hello", ask -> Map.of("pid", ProcessHandle.current().pid()));
        on("stop", this::stop);
        new Producers(this);
        new SteadyProducers(this);
        new Consumers(this);
        new Requests(this);
        new Readers(this);
        new Admins(this);
        Commands.register(this);
        Traces.register(this);
        Stuck.register(this);
        new Allocations(this);
        new OrderedConsumers(this);
        new Filters(this);
        new Transactions(this);
    }

    void on(String verb, Command command) {
        commands.put(verb, command);
    }

    /** A client instance name that no other client of this machine has, so that clients never share a connection. */
    String instanceName() {
        return ProcessHandle.current().pid() + "-" + instances++;
    }

    void started(String name, Running what) {
        if (running.putIfAbsent(name, what) != null) {
            throw new IllegalStateException(name + " is running already");
        }
    }

    <T extends Running> T get(String name, Class<T> kind) {
        Running found = running.get(name);
        if (found == null) {
            throw new IllegalStateException("nothing called " + name + " is running");
        }
        return kind.cast(found);
    }

    private Object stop(JSONObject ask) throws Exception {
        Running found = running.remove(ask.getString("name"));
        if (found != null) {
            found.stop();
        }
        return found != null;
    }

    private void serve(BufferedReader asks, PrintStream answers) throws Exception {
        for (String line = asks.readLine(); line != null; line = asks.readLine()) {
            JSONObject ask = JSON.parseObject(line);
            JSONObject answer = new JSONObject();
            answer.put("id", ask.get("id"));
            try {
                Command command = commands.get(ask.getString("do"));
                if (command == null) {
                    throw new IllegalArgumentException("unknown verb " + ask.getString("do"));
                }
                answer.put("result", command.run(ask));
            } catch (Throwable thrown) {
                thrown.printStackTrace();
                answer.put("error", error(thrown));
            }
            answers.println(JSON.toJSONString(answer, SerializerFeature.WriteMapNullValue,
                SerializerFeature.DisableCircularReferenceDetect));
        }
        for (Running left : running.values()) {
            left.stop();
        }
    }

    /** What was thrown, with RocketMQ's response code where the exception has one (else -1). */
    static JSONObject error(Throwable thrown) {
        JSONObject error = new JSONObject();
        error.put("type", thrown.getClass().getSimpleName());
        error.put("message", String.valueOf(thrown.getMessage()));
        error.put("code", -1);
        try {
            error.put("code", thrown.getClass().getMethod("getResponseCode").invoke(thrown));
        } catch (ReflectiveOperationException none) {
            // most exceptions have no response code
        }
        return error;
    }
}
