"""Reads a whole topic with kafka-python and prints, as JSON, the number of records and a digest per key (see digests in
corpus_test.go): sha256 over (8-byte size, value) in order of offset."""
import hashlib
import json
import struct
import sys

from kafka import KafkaConsumer, TopicPartition

brokers, topic = sys.argv[1], sys.argv[2]
consumer = KafkaConsumer(bootstrap_servers=brokers.split(","), enable_auto_commit=False,
                         auto_offset_reset="earliest", max_poll_records=20000, fetch_max_bytes=32 << 20,
                         max_partition_fetch_bytes=4 << 20)
partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
consumer.assign(partitions)
ends = consumer.end_offsets(partitions)
consumer.seek_to_beginning()
left = {tp for tp in partitions if ends[tp] > 0}
digests, records = {}, 0
while left:
    batches = consumer.poll(timeout_ms=10000)
    if not batches:
        sys.exit("no records for 10 s; still waiting for %s" % sorted(left))
    for tp, recs in batches.items():
        for r in recs:
            key = r.key.decode()
            value = r.value if r.value is not None else b""
            d = digests.get(key)
            if d is None:
                d = digests[key] = hashlib.sha256()
            d.update(struct.pack(">Q", len(value)))
            d.update(value)
        records += len(recs)
        if recs and recs[-1].offset + 1 >= ends[tp]:
            left.discard(tp)
json.dump({"records": records, "digests": {k: d.hexdigest() for k, d in digests.items()}}, sys.stdout)
