package shop;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.springframework.stereotype.Component;

/** What the listeners have handled, each under its own name. */
@Component
public class Journal {
    private final Map<String, List<Map<String, Object>>> entries = new LinkedHashMap<>();

    synchronized void add(String listener, Map<String, Object> entry) {
        entries.computeIfAbsent(listener, name -> new ArrayList<>()).add(entry);
        notifyAll();
    }

    /** All entries of a listener as soon as they are {@code count}, or after {@code waitMs}. */
    synchronized List<Map<String, Object>> entries(String listener, int count, long waitMs)
        throws InterruptedException {
        long end = System.nanoTime() + waitMs * 1_000_000;
        while (entries.getOrDefault(listener, List.of()).size() < count) {
            long leftMs = (end - System.nanoTime()) / 1_000_000;
            if (leftMs <= 0) {
                break;
            }
            wait(leftMs);
        }
        return List.copyOf(entries.getOrDefault(listener, List.of()));
    }
}
