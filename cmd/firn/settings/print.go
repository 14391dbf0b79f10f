package settings

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

// Effective is the value of a setting and where it was given.
type Effective struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"` // default, or as in problems: --name, environment FIRN_NAME, path:line key
}

// Effective are the values in force.
func (s *Set) Effective() []Effective {
	out := make([]Effective, len(s.all))
	for i, x := range s.all {
		out[i] = Effective{x.Name, x.Value(), x.Origin()}
	}
	return out
}

// Print writes the values in force as a table.
func (s *Set) Print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "SETTING\tVALUE\tSOURCE")
	for _, e := range s.Effective() {
		if e.Value == "" {
			e.Value = "-"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", e.Name, e.Value, e.Source)
	}
	return table.Flush() // keeps the first error
}

// Usage is the help of the settings among flags, group by group.
func (s *Set) Usage(flags *pflag.FlagSet) string {
	var b strings.Builder
	for _, group := range s.Groups() {
		part := pflag.NewFlagSet(group, pflag.ContinueOnError)
		part.SortFlags = false
		for _, x := range s.all {
			if f := flags.Lookup(x.Name); f != nil && x.Group == group {
				part.AddFlag(f)
			}
		}
		if part.HasFlags() {
			fmt.Fprintf(&b, "\n%s:\n%s", group, part.FlagUsages())
		}
	}
	return b.String()
}

// Markdown documents the settings, one table a group. Each is a flag, a variable and a key of the file at once.
func (s *Set) Markdown(w io.Writer) error {
	var b strings.Builder
	cell := strings.NewReplacer("|", `\|`, "<", `\<`)
	for _, group := range s.Groups() {
		fmt.Fprintf(&b, "\n## %s\n\n| setting | variable | type | default | bounds | what it is |\n| --- | --- | --- | --- | --- | --- |\n", group)
		for _, x := range s.all {
			if x.Group != group {
				continue
			}
			def := ""
			if x.Default != "" {
				def = "`" + x.Default + "`"
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s | %s |\n", x.Name, x.Env(), cell.Replace(x.Type), def, x.Bounds, cell.Replace(x.Help))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
