// Command firn is the one binary of the project: the agent, a development cluster, and tools that speak Kafka.
//
// The tools (topic, produce, consume, config, cluster, verify, bench) use the Kafka protocol only and work against any
// Kafka. Addresses come from --brokers, from a context (context.go), or from FIRN_BROKERS; kafka.go has the order.
//
// docs/cli.md documents the tools, their outputs and the exit codes (exit.go); it is made from their help.
//
// # Adding a command
//
// A command is a function newX(env) *cobra.Command in a file of its own, added in newRoot. It reads and writes only
// through its env, returns its error (wrapping client.ErrUsage or errCheck where one of those applies), and leaves
// printing the error and choosing the exit code to report. Only main.go touches signals, os.Exit and the default logger.
package main
