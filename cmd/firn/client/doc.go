// Package client holds what every command that speaks Kafka shares: broker addresses, compression codecs, topic
// settings, and the options of a franz-go client with each default spelt out. Nothing in it is particular to firn: the
// commands work against any Kafka.
package client
