// Package topicconfig is the table of topic configs: name, type, default, accepted values, documentation and the
// cluster-wide configs that stand in for it. It is data and pure functions, without I/O or clock.
//
// agent/kafka validates CreateTopics and IncrementalAlterConfigs against it and answers DescribeConfigs from it;
// agent/ingest and compaction read Settings.
//
// Names, types, defaults and bounds are those of Apache Kafka 4.4 (TopicConfig, LogConfig, ServerLogConfigs), so that tools
// which copy configs from cluster to cluster meet nothing unknown; testdata holds what Kafka itself says of each. A config
// that has no effect here is accepted and says so in its documentation; one whose effect a user would miss
// (remote.storage.enable) is refused as a Kafka without that feature refuses it. What only firn has starts with "firn.".
// docs/topic-configs.md is generated from the table; a test holds it.
//
// A value comes from the first of: the topic's own config, a cluster-wide config named as one of its synonyms, the default.
package topicconfig
