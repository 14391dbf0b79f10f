"""One member of a consumer group, with librdkafka: reads until its standard input ends and says what it sees as lines of JSON.
usage: librdkafka.py BROKERS TOPIC GROUP PROTOCOL ASSIGNOR"""
import json
import os
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

brokers, topic, group, protocol, assignor = sys.argv[1:6]
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()


def say(event, **more):
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")


def assigned(consumer, partitions):
    say("assigned", partitions=[p.partition for p in partitions])


def revoked(consumer, partitions):
    if not under_way:
        commit(wait=True)
    lost(consumer, partitions)


def lost(consumer, partitions):
    for p in partitions:  # who gets them reads again what was not committed
        read.pop(p.partition, None)
        gone.add(p.partition)
    say("revoked", partitions=[p.partition for p in partitions])


def again(partitions):
    """What was not committed goes with the next commit, if nothing newer was read by then. Another member may have got on with what was
    given up since that commit began, even where it has come back."""
    mine = {p.partition for p in consumer.assignment()}
    for p in partitions:
        if p.offset >= 0 and p.partition in mine and p.partition not in gone:
            read.setdefault(p.partition, p.offset)


def committed(error, partitions):
    global under_way
    under_way = False
    if error is not None:
        say("note", text=f"commit: {error}")
        again(partitions)
        return
    for p in partitions:
        if p.error is None and p.offset >= 0:
            say("committed", partition=p.partition, offset=p.offset)
        elif p.error is not None:
            say("note", text=f"commit of {p.partition}: {p.error}")
            again([p])


def commit(wait=False):
    """Commits what was read. librdkafka retries each commit by itself, without regard to later ones: two at once may swap."""
    global read, under_way
    if not read or under_way:
        return
    offsets, read = [TopicPartition(topic, p, o) for p, o in read.items()], {}
    gone.clear()
    try:
        if not wait:
            under_way = True
            consumer.commit(offsets=offsets, asynchronous=True)
        else:
            committed(None, consumer.commit(offsets=offsets, asynchronous=False))
    except KafkaException as e:
        under_way = False
        say("note", text=f"commit: {e}")
        again(offsets)


def take(messages):
    for m in messages:
        if m.error() is None:
            say("record", partition=m.partition(), offset=m.offset(), number=int(m.key()))
            read[m.partition()] = m.offset() + 1
        elif m.error().fatal() or m.error().code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.UNKNOWN_TOPIC_OR_PART):
            raise KafkaException(m.error())
        else:
            say("note", text=str(m.error()))


config = {"bootstrap.servers": brokers, "group.id": group, "client.id": "librdkafka", "enable.auto.commit": False,
          "auto.offset.reset": "earliest", "on_commit": committed, "group.protocol": protocol}
if protocol == "consumer":
    config["group.remote.assignor"] = assignor
else:
    config["partition.assignment.strategy"] = assignor
consumer = Consumer(config)
read, gone, under_way, last = {}, set(), False, time.monotonic()
try:
    consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)
    while not ended.is_set():
        take(consumer.consume(num_messages=500, timeout=0.1))
        if time.monotonic() - last > 0.25:
            commit()
            last = time.monotonic()
        sys.stdout.flush()
    while under_way:
        take(consumer.consume(num_messages=500, timeout=0.1))
    commit(wait=True)
    consumer.close()
except Exception as e:  # whatever it is, the test wants to know
    say("error", text=repr(e))
sys.stdout.flush()
os._exit(0)
