package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/firnlog/firn/cmd/firn/client"
	"github.com/firnlog/firn/metastore/log"
)

// Exit codes; exitHelp and docs/cli.md document them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitCheck       = 3
	exitNotFound    = 4
	exitNoAnswer    = 5
	exitDenied      = 6
	exitInterrupted = 130
)

// exitHelp is the table of exit codes that people see.
const exitHelp = `Exit codes:
    0  done
    1  failed: a broker, a file or the network did not do what was asked
    2  usage: the command line or the environment asks for something that cannot be
    3  check failed: the command worked and found a violation
    4  not found: a topic, partition, group or context that was named is not there
    5  no answer: a broker cannot be reached, or did not answer in time; trying again may help
    6  not allowed: user, password, certificate or permission
  130  interrupted by a signal before it was done`

var (
	// errCheck is wrapped by the error of a command that worked and found a violation.
	errCheck = errors.New("check failed")
	// errInterrupted is wrapped where a signal ended a command before it was done.
	errInterrupted = errors.New("interrupted")
)

// exitCode sorts an error. Of several joined errors the first rule that fits any of them decides.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.Is(err, errCheck):
		return exitCheck
	case errors.Is(err, client.ErrUsage):
		return exitUsage
	case client.Denied(err), errors.Is(err, log.ErrDenied):
		return exitDenied
	case client.NotFound(err):
		return exitNotFound
	case client.NoAnswer(err):
		return exitNoAnswer
	}
	return exitFailure
}

// report prints an error, one line per problem, and returns the exit code for it.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	for _, line := range problemLines(err) {
		_, _ = fmt.Fprintf(w, "firn: %s\n", line)
	}
	return exitCode(err)
}

// problemLines are the problems of an error, as they are printed.
func problemLines(err error) []string {
	var out []string
	for line := range strings.Lines(err.Error()) {
		out = append(out, strings.ReplaceAll(strings.TrimSpace(line), client.ErrUsage.Error()+": ", ""))
	}
	return out
}

// onlyClosed says whether an error tells of nothing but a reader of standard output that has gone. Of joined errors each has to.
func onlyClosed(err error) bool {
	switch e := err.(type) { //nolint:errorlint // every layer is looked at
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !onlyClosed(err) })
	case interface{ Unwrap() error }:
		return onlyClosed(e.Unwrap())
	}
	return isClosed(err)
}

func isClosed(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}

// output is standard output that remembers whether its reader has gone, as head does once it has its lines: that ends a
// command quietly and is no failure, unless there is worse to say.
type output struct {
	w      io.Writer
	closed bool
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if isClosed(err) {
		o.closed = true
	}
	return n, err
}
