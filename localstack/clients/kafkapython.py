"""One member of a consumer group, with kafka-python: reads until its standard input ends and says what it sees as lines of JSON.
usage: kafkapython.py BROKERS TOPIC GROUP ASSIGNOR"""
import json
import os
import sys
import threading
import time
import traceback

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError

brokers, topic, group, assignor = sys.argv[1:5]
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()


def say(event, **more):
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")


class Listener(ConsumerRebalanceListener):
    def on_partitions_assigned(self, assigned):
        say("assigned", partitions=[p.partition for p in assigned])

    def on_partitions_revoked(self, revoked):
        # It must not wait for a commit here. What was read stays in mind: where a partition comes back at once, kafka-python goes on
        # from the position it had, and the next commit has to have it.
        say("revoked", partitions=[p.partition for p in revoked])

    on_partitions_lost = on_partitions_revoked


def commit():
    """Commits what was read, as most programs do: it waits for the answer."""
    offsets = {}
    for p, o in list(read.items()):
        tp = TopicPartition(topic, p)
        if tp not in consumer.assignment():
            continue
        try:
            position = consumer.position(tp, timeout_ms=1000)
        except KafkaError as e:
            say("note", text=f"position: {e!r}")
            continue
        del read[p]
        if position == o:  # else others had it meanwhile, and it goes on from what they committed
            offsets[p] = o
    if not offsets:
        return
    try:
        consumer.commit({TopicPartition(topic, p): OffsetAndMetadata(o, "", -1) for p, o in offsets.items()})
    except KafkaError as e:
        say("note", text=f"commit: {e!r}")
        for p, o in offsets.items():  # with the next one, if nothing newer was read by then
            read.setdefault(p, o)
        return
    for p, o in offsets.items():
        say("committed", partition=p, offset=o)


read, last = {}, time.monotonic()
assignors = {"range": RangePartitionAssignor, "cooperative-sticky": CooperativeStickyAssignor}
consumer = KafkaConsumer(bootstrap_servers=brokers.split(","), group_id=group, client_id="kafka-python", enable_auto_commit=False,
                         auto_offset_reset="earliest", partition_assignment_strategy=[assignors[assignor]])
try:
    consumer.subscribe([topic], listener=Listener())
    while not ended.is_set():
        for records in consumer.poll(timeout_ms=100).values():
            for r in records:
                say("record", partition=r.partition, offset=r.offset, number=int(r.key))
                read[r.partition] = r.offset + 1
        if time.monotonic() - last > 0.25:
            commit()
            last = time.monotonic()
        sys.stdout.flush()
    commit()
    consumer.close()
except Exception as e:  # whatever it is, the test wants to know
    say("error", text=traceback.format_exc())
sys.stdout.flush()
os._exit(0)
