package main

import (
	"os"
	"runtime/debug"
)

// limitMemory makes the garbage collector work harder when the process nears the limit, rather than let garbage grow as large
// as what is in use. An eighth of it is left for what is not Go's. GOMEMLIMIT in the environment has precedence.
func limitMemory(limit int64) (undo func()) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	before := debug.SetMemoryLimit(limit - limit/8)
	return func() { debug.SetMemoryLimit(before) }
}
