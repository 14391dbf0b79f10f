import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * One member of a consumer group, with Apache Kafka's own client: reads until its standard input ends and says what it sees as lines
 * of JSON. Usage: Member BROKERS TOPIC GROUP PROTOCOL ASSIGNOR
 */
public class Member {
    private final StringBuilder out = new StringBuilder();
    private final PrintStream stdout = System.out; // the client's log goes elsewhere
    private final Map<TopicPartition, OffsetAndMetadata> read = new HashMap<>();
    private final Set<TopicPartition> gone = new HashSet<>(); // given up since the commit that is under way began
    private boolean underWay;
    private KafkaConsumer<String, byte[]> consumer;
    private volatile boolean ended;

    public static void main(String[] args) {
        Member m = new Member();
        System.setOut(System.err);
        try {
            m.run(args);
        } catch (Throwable e) {
            m.text("error", e.toString());
        }
        m.flush();
        System.exit(0);
    }

    private void run(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("group.id", args[2]);
        p.put("client.id", "java");
        p.put("group.protocol", args[3]);
        if (args[3].equals("consumer")) {
            p.put("group.remote.assignor", args[4]);
        } else {
            p.put("partition.assignment.strategy", args[4].equals("cooperative-sticky")
                ? "org.apache.kafka.clients.consumer.CooperativeStickyAssignor" : "org.apache.kafka.clients.consumer.RangeAssignor");
        }
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "earliest");
        Thread stdin = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                }
            } catch (java.io.IOException e) {
                // as good as the end
            }
            ended = true;
        });
        stdin.setDaemon(true);
        stdin.start();
        consumer = new KafkaConsumer<>(p, new StringDeserializer(), new ByteArrayDeserializer());
        consumer.subscribe(List.of(args[1]), new ConsumerRebalanceListener() {
            public void onPartitionsAssigned(Collection<TopicPartition> c) {
                partitions("assigned", c);
            }

            public void onPartitionsRevoked(Collection<TopicPartition> c) {
                commitAndWait();
                read.keySet().removeAll(c);
                gone.addAll(c);
                partitions("revoked", c);
            }

            public void onPartitionsLost(Collection<TopicPartition> c) {
                read.keySet().removeAll(c);
                gone.addAll(c);
                partitions("revoked", c);
            }
        });
        long last = System.nanoTime();
        while (!ended) {
            for (ConsumerRecord<String, byte[]> r : consumer.poll(Duration.ofMillis(100))) {
                out.append("{\"event\":\"record\",\"partition\":").append(r.partition()).append(",\"offset\":").append(r.offset())
                    .append(",\"number\":").append(r.key()).append("}\n");
                read.put(new TopicPartition(r.topic(), r.partition()), new OffsetAndMetadata(r.offset() + 1));
            }
            if (System.nanoTime() - last > 250_000_000L) {
                commit();
                last = System.nanoTime();
            }
            flush();
        }
        commitAndWait();
        consumer.close();
    }

    // One commit is under way at a time: of several, over more than one connection, the later may be done first.
    private void commit() {
        if (read.isEmpty() || underWay) {
            return;
        }
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>(read);
        read.clear();
        gone.clear();
        underWay = true;
        consumer.commitAsync(offsets, (done, e) -> {
            underWay = false;
            committed(offsets, e);
        });
    }

    private void commitAndWait() {
        if (read.isEmpty()) {
            return;
        }
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>(read);
        read.clear();
        if (!underWay) {
            gone.clear();
        }
        try {
            consumer.commitSync(offsets);
            committed(offsets, null);
        } catch (KafkaException e) {
            committed(offsets, e);
        }
    }

    private void committed(Map<TopicPartition, OffsetAndMetadata> offsets, Exception e) {
        if (e != null) {
            text("note", "commit: " + e);
            // Tried again with the next, if nothing newer was read by then: nothing else would ever commit the last records. With what
            // was given up meanwhile another member may have got on, even where it has come back.
            offsets.forEach((p, o) -> {
                if (consumer.assignment().contains(p) && !gone.contains(p)) {
                    read.putIfAbsent(p, o);
                }
            });
            return;
        }
        offsets.forEach((p, o) -> out.append("{\"event\":\"committed\",\"partition\":").append(p.partition()).append(",\"offset\":")
            .append(o.offset()).append("}\n"));
    }

    private void partitions(String event, Collection<TopicPartition> c) {
        List<Integer> all = new ArrayList<>();
        c.forEach(p -> all.add(p.partition()));
        out.append("{\"event\":\"").append(event).append("\",\"partitions\":").append(all).append("}\n");
        flush();
    }

    private void text(String event, String text) {
        out.append("{\"event\":\"").append(event).append("\",\"text\":\"").append(text.replace("\\", "/").replace('"', '\'').replace('\n', ' '))
            .append("\"}\n");
    }

    private void flush() {
        stdout.print(out);
        stdout.flush();
        out.setLength(0);
    }
}
