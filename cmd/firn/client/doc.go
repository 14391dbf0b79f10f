// Package client holds what every command that speaks Kafka shares: broker addresses, compression codecs, topic
// settings, the options of a franz-go client with each default spelt out, contexts, and the classes of errors that exit
// codes are made from. Nothing in it is particular to firn: the commands work against any Kafka.
//
// # Contexts
//
// A context is a name for a cluster: addresses, TLS, and a user whose password lies elsewhere. They are kept in one YAML
// file, written whole and in one step:
//
//	version: 1
//	current: prod
//	contexts:
//	  prod:
//	    brokers: [k1.example.net:9093, k2.example.net:9093]
//	    tls: {ca: /etc/ssl/prod.pem}
//	    sasl: {mechanism: SCRAM-SHA-512, user: me, password_env: PROD_PASSWORD}
//
// A newer version is refused by number, an unknown field by name: a field that was dropped could be the one that asked
// for TLS.
package client
