"""Consumers of librdkafka (confluent-kafka) in groups of the consumer protocol, KIP-848.

usage: newgroups.py BOOTSTRAP TOPIC GROUP [PROTOCOL SECONDS]

Prints one JSON object a line: what this consumer was assigned and gave up, and the records it read, as it commits them. Ends when its
standard input ends.
"""
import json
import sys
import threading

from confluent_kafka import Consumer, KafkaError

bootstrap, topic, group = sys.argv[1:4]
protocol = sys.argv[4] if len(sys.argv) > 4 else "consumer"


def say(**what):
    print(json.dumps(what), flush=True)


def partitions(list_):
    return sorted(p.partition for p in list_)


config = {
    "bootstrap.servers": bootstrap, "group.id": group, "group.protocol": protocol, "auto.offset.reset": "earliest",
    "enable.auto.commit": False, "client.id": "librdkafka",
}
if protocol == "classic":
    config["partition.assignment.strategy"] = "cooperative-sticky"
    config["session.timeout.ms"] = 10000
    config["heartbeat.interval.ms"] = 500
consumer = Consumer(config)


def assigned(c, list_):
    c.incremental_assign(list_)
    say(event="assigned", partitions=partitions(list_))


def revoked(c, list_):
    c.incremental_unassign(list_)
    say(event="revoked", partitions=partitions(list_))


def lost(c, list_):
    c.incremental_unassign(list_)
    say(event="lost", partitions=partitions(list_))


consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)
over = threading.Event()


def watch():
    sys.stdin.read()
    over.set()


threading.Thread(target=watch, daemon=True).start()
while not over.is_set():
    for message in consumer.consume(200, 0.2):
        if message.error():
            say(event="error", code=message.error().code(), text=message.error().str(), fatal=message.error().fatal())
            if message.error().fatal():
                sys.exit(1)
            continue
        say(event="read", partition=message.partition(), offset=message.offset(), value=message.value().decode())
    try:
        consumer.commit(asynchronous=False)
    except Exception as e:  # noqa: BLE001
        if e.args[0].code() != KafkaError._NO_OFFSET:
            say(event="commit", code=e.args[0].code(), text=e.args[0].str())
consumer.close()
say(event="closed")
