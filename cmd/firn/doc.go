// Command firn is the one binary of the project: the agent, a development cluster, and tools that speak Kafka.
//
// The tools (topic, produce, consume, verify, bench) use the Kafka protocol only and work against any Kafka. Addresses
// come from --brokers, or from FIRN_BROKERS where that is not given.
//
// # Exit codes
//
//	0  done
//	1  failed: a broker, a file or the network did not do what was asked
//	2  usage: the command line or the environment asks for something that cannot be
//	3  check failed: the command worked and found a violation
//
// # Adding a command
//
// A command is a function newX(env) *cobra.Command in a file of its own, added in newRoot. It reads and writes only
// through its env, returns its error (wrapping client.ErrUsage or errCheck where one of those applies), and leaves
// printing the error and choosing the exit code to report. Only main.go touches signals, os.Exit and the default logger.
package main
