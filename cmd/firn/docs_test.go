package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// documented are the commands of docs/cli.md: those that speak to any Kafka, what they need, and those that look at what firn
// stores. What serves, firn dev and firn agent, has docs/configuration.md.
var documented = []string{
	"topic", "produce", "consume", "group", "config", "cluster", "context", "verify", "bench", "inspect", "metastore", "bucket", "gc", "health", "version", "completion",
}

// docs/cli.md is made from the help of the commands, below a part that is written by hand: what scripts rely on.
func TestCLIPage(t *testing.T) {
	const path, from = "../../docs/cli.md", "<!-- From here on made by: go test ./cmd/firn -run TestCLIPage -rewrite -->\n"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	written, _, ok := strings.Cut(string(page), from)
	if !ok {
		t.Fatalf("%s has no line %q", path, from)
	}
	if !strings.Contains(written, exitHelp) {
		t.Errorf("%s has other exit codes than the help", path)
	}
	root := newRoot(env{Getenv: func(string) string { return "" }})
	root.InitDefaultCompletionCmd("completion")
	var made strings.Builder
	made.WriteString(written + from)
	for _, name := range documented {
		cmd, _, err := root.Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		document(t, &made, cmd)
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(made.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if made.String() != string(page) {
		t.Errorf("%s is not what the commands say, make it anew with go test ./cmd/firn -run TestCLIPage -rewrite", path)
	}
}

// document writes the help of a command and of those below it.
func document(t *testing.T, w *strings.Builder, cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag()
	if !cmd.HasAvailableSubCommands() && cmd.Example == "" && !strings.HasPrefix(cmd.CommandPath(), "firn completion") {
		t.Errorf("%s has no example", cmd.CommandPath())
	}
	about := cmd.Long
	if about == "" {
		about = cmd.Short
	}
	fmt.Fprintf(w, "\n## %s\n\n```\n%s\n\n%s```\n", cmd.CommandPath(), strings.TrimSpace(about), cmd.UsageString())
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			document(t, w, sub)
		}
	}
}
