package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// build says what this binary was made from.
type build struct {
	Version  string `json:"version"`  // of the module, or "devel"
	Commit   string `json:"commit"`   // "unknown" where the build did not record it
	Modified bool   `json:"modified"` // there were changes not committed
	Go       string `json:"go"`
}

// thisBuild reads what the linker recorded.
func thisBuild() build {
	b := build{Version: "devel", Commit: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (b build) String() string {
	modified := ""
	if b.Modified {
		modified = ", modified"
	}
	return fmt.Sprintf("firn %s (commit %s%s, %s)", b.Version, b.Commit, modified, b.Go)
}

func newVersion(e env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Say what this binary was built from",
		Example: "  firn version -o json",
		Args:    arguments(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if output == "json" {
				return writeJSON(e.Stdout, thisBuild())
			}
			_, err := fmt.Fprintln(e.Stdout, thisBuild())
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
