//go:build interop

package interop

import "testing"

// kafka-python's admin client, and again after every agent was killed.
func TestAdminClientOfPython(t *testing.T) {
	stack := start(t, 3)
	run(t, pythonBin, "admin.py", stack.Brokers(), "change")
	for _, a := range stack.Agents {
		if err := a.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range stack.Agents {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range stack.Agents {
		if err := awaitReady(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	run(t, pythonBin, "admin.py", stack.Brokers(), "after")
}
