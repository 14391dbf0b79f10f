package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

const defaultBrokers = "127.0.0.1:9092"

// brokersFlag declares --brokers.
func brokersFlag(cmd *cobra.Command, e env, brokers *[]string) {
	start := e.Getenv("FIRN_BROKERS")
	if start == "" {
		start = defaultBrokers
	}
	cmd.Flags().StringSliceVar(brokers, "brokers", []string{start}, "brokers to start from, as host:port, separated by commas (environment FIRN_BROKERS)")
}

// outputFlag declares -o.
func outputFlag(cmd *cobra.Command, output *string) {
	choiceFlag(cmd, output, "output", "o", "text", "text|json", "how to print")
}

// choiceFlag declares a flag that takes one of a few words, given as a|b|c.
func choiceFlag(cmd *cobra.Command, value *string, name, short, start, choices, help string) {
	*value = start
	cmd.Flags().VarP(&choice{value, strings.Split(choices, "|")}, name, short, help+", "+choices)
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(strings.Split(choices, "|"), cobra.ShellCompDirectiveNoFileComp)))
}

// choice implements pflag.Value for choiceFlag.
type choice struct {
	value   *string
	allowed []string
}

func (c *choice) String() string { return *c.value }
func (c *choice) Type() string   { return "word" }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("choose one of %s", strings.Join(c.allowed, ", "))
	}
	*c.value = s
	return nil
}

// connect opens a client and makes sure that a broker answers, so that a wrong address is told at once and by name.
func connect(ctx context.Context, addresses []string, opts ...kgo.Opt) (*kgo.Client, error) {
	brokers, err := client.Brokers(addresses)
	if err != nil {
		return nil, err
	}
	cl, err := kgo.NewClient(append(client.Options(brokers), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("open a client: %w", err)
	}
	if err := cl.Ping(ctx); err != nil {
		cl.Close()
		return nil, fmt.Errorf("no broker answers at %s: %w; start one there, or name others with --brokers", strings.Join(brokers, ", "), err)
	}
	return cl, nil
}

// writeJSON writes v, indented, for people and programs.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// writeJSONLine writes v on one line.
func writeJSONLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
