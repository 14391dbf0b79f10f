"""Produces with kafka-python for some seconds, through whatever happens meanwhile, and prints as JSON how many records were
acknowledged and how many were given up on. Then reads the topic back: every acknowledged record must be there once, at its
offset, and in order."""
import json
import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

brokers, topic, seconds = sys.argv[1].split(","), sys.argv[2], float(sys.argv[3])
producer = KafkaProducer(bootstrap_servers=brokers, enable_idempotence=True, acks="all", retries=1000000, linger_ms=5,
                         delivery_timeout_ms=300000, request_timeout_ms=8000, max_block_ms=120000)
acked, failed, sent = {}, [], 0


def note(i):
    def done(meta):
        acked[i] = meta.offset
    return done


end = time.monotonic() + seconds
while time.monotonic() < end:
    future = producer.send(topic, b"%d" % sent, partition=0)
    future.add_callback(note(sent))
    future.add_errback(lambda e, i=sent: failed.append([i, repr(e)]))
    sent += 1
    time.sleep(0.002)
producer.flush(timeout=240)
producer.close()

consumer = KafkaConsumer(bootstrap_servers=brokers, enable_auto_commit=False, auto_offset_reset="earliest")
tp = TopicPartition(topic, 0)
consumer.assign([tp])
last = consumer.end_offsets([tp])[tp]
consumer.seek(tp, 0)
values = []
while len(values) < last:
    for recs in consumer.poll(timeout_ms=10000).values():
        values += [(r.offset, int(r.value)) for r in recs]
wrong = [v for v in values if acked.get(v[1], v[0]) != v[0]]
numbers = [n for _, n in values]
json.dump({"sent": sent, "acked": len(acked), "failed": failed[:5], "read": len(values), "wrong": wrong[:5],
           "doubled": len(numbers) - len(set(numbers)), "missing": len(set(acked) - set(numbers)),
           "ordered": numbers == sorted(numbers)}, sys.stdout)
