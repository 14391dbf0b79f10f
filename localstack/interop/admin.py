"""The admin client of kafka-python against a cluster: configs, deletion of records, log directories, listings. The second
argument is the part to run: `change` makes topics and changes them, `after` looks again once every agent was killed."""
import sys

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import OffsetOutOfRangeError, PolicyViolationError

brokers, part = sys.argv[1].split(","), sys.argv[2]
admin = KafkaAdminClient(bootstrap_servers=brokers)


def equal(what, got, want):
    if got != want:
        sys.exit("%s: %r, want %r" % (what, got, want))


def refused(what, error, fn, *args, **kwargs):
    try:
        got = fn(*args, **kwargs)
    except error:
        return
    sys.exit("%s: %r, want %s" % (what, got, error.__name__))


def topic_config(name, configs=None):
    return ConfigResource(ConfigResourceType.TOPIC, name, configs)


def set_configs(name):
    """What was set on the topic itself."""
    found = admin.describe_configs([topic_config(name)], config_filter="all")["topic"][name]
    return {k: v["value"] for k, v in found.items() if v["config_source"].lower().endswith("topic_config")}


def sizes():
    """Bytes per partition; every partition must be told by one agent alone."""
    found = {}
    for agent in admin.describe_log_dirs():
        for d in agent["log_dirs"]:
            equal("log dir error", d["error_code"], 0)
            for t in d["topics"]:
                for p in t["partitions"]:
                    key = (t["name"], p["partition_index"])
                    if key in found:
                        sys.exit("%s-%d is reported twice" % key)
                    found[key] = p["partition_size"]
    return found


def earliest(name, partition):
    tp = TopicPartition(name, partition)
    with_consumer = KafkaConsumer(bootstrap_servers=brokers, group_id=None)
    try:
        return with_consumer.beginning_offsets([tp])[tp]
    finally:
        with_consumer.close()


def change():
    admin.create_topics([NewTopic("py", 6, 1, topic_configs={"retention.ms": "1000"}),
                         NewTopic("pycompact", 1, 1, topic_configs={"cleanup.policy": "compact"})])
    producer = KafkaProducer(bootstrap_servers=brokers, acks="all")
    for i in range(60):
        producer.send("py", value=b"x" * 100, partition=i % 6).get(30)  # a batch each: batches are what is counted and deleted
    producer.send("pycompact", key=b"k", value=b"v").get(30)

    admin.alter_configs([topic_config("py", {"max.message.bytes": "5000"})], incremental=True)
    equal("after an incremental change", set_configs("py"), {"retention.ms": "1000", "max.message.bytes": "5000"})
    admin.alter_configs([topic_config("py", {"cleanup.policy": "delete"})], incremental=False)
    got = set_configs("py")
    equal("AlterConfigs sets what it names", got.get("cleanup.policy"), "delete")
    admin.alter_configs([topic_config("py", {"retention.ms": "77"})], incremental=True, validate_only=True)
    equal("validate only", set_configs("py"), got)
    answer = admin.alter_configs([topic_config("py", {"retention.ms": "a week"})], incremental=True)["topic"]["py"]
    if "InvalidConfigurationError" not in answer or "not a number" not in answer:
        sys.exit("a bad value: %r" % answer)

    before = sizes()
    equal("partitions in log dirs", len([k for k in before if k[0] == "py"]), 6)
    if not all(before["py", p] > 1000 for p in range(6)):
        sys.exit("sizes %r" % before)
    low = admin.delete_records({TopicPartition("py", 0): 4, TopicPartition("py", 1): -1})
    equal("low watermarks", {tp.partition: r["low_watermark"] for tp, r in low.items()}, {0: 4, 1: 10})
    refused("beyond the end", OffsetOutOfRangeError, admin.delete_records, {TopicPartition("py", 2): 11})
    refused("a compacted topic", PolicyViolationError, admin.delete_records, {TopicPartition("pycompact", 0): 1})
    page = admin.describe_topic_partitions(["py"], response_partition_limit=4)
    equal("a page", (len(page["topics"][0]["partitions"]), page["next_cursor"]["partition_index"]), (4, 4))
    equal("config resources", sorted(admin.list_config_resources(["TOPIC"])["topic"]), ["py", "pycompact"])
    equal("groups", admin.list_groups(), [])
    after()


def after():
    equal("earliest", [earliest("py", p) for p in range(3)], [4, 10, 0])
    now = sizes()
    equal("bytes of a partition without records", now["py", 1], 0)
    if not 0 < now["py", 0] < now["py", 2]:
        sys.exit("sizes %r" % now)
    consumer = KafkaConsumer(bootstrap_servers=brokers, auto_offset_reset="none", group_id=None)
    tp = TopicPartition("py", 0)
    consumer.assign([tp])
    consumer.seek(tp, 3)
    refused("a fetch below the log start", OffsetOutOfRangeError, consumer.poll, timeout_ms=10000)
    consumer.seek(tp, 4)
    got = []
    while len(got) < 6:
        got += [r.offset for r in consumer.poll(timeout_ms=10000).get(tp, [])]
    equal("what is left", got, list(range(4, 10)))


{"change": change, "after": after}[part]()
