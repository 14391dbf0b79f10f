//go:build unix

package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperArgs are the arguments with which the test's own binary is firn.
const helperArgs = "FIRN_TEST_ARGS"

// TestMainOfAnotherProcess is firn itself where another test starts it, and nothing else.
func TestMainOfAnotherProcess(*testing.T) {
	if args := os.Getenv(helperArgs); args != "" {
		_ = os.Unsetenv(helperArgs)
		os.Args = append([]string{"firn"}, strings.Fields(args)...)
		main()
	}
}

// A second signal ends a drain at once, however long that may take.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestMainOfAnotherProcess$")
	cmd.Env = append(os.Environ(), helperArgs+"=dev --memory --drain-notice 5m --drain-timeout 1h "+strings.Join(anyPort, " "))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	said := make(chan string, 1000)
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			said <- lines.Text()
		}
		close(said)
		ended <- cmd.Wait()
	}()
	defer func() { _ = cmd.Process.Kill() }()
	limit := time.After(3 * time.Minute)
	await := func(what string) {
		t.Helper()
		for {
			select {
			case line, more := <-said:
				if !more {
					t.Fatalf("ended before it said %q", what)
				}
				if strings.Contains(line, what) {
					return
				}
			case <-limit:
				t.Fatalf("it did not say %q", what)
			}
		}
	}
	await("agent serves")
	_ = cmd.Process.Signal(syscall.SIGTERM)
	await("msg=draining")
	for again := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
				t.Errorf("ended with %v", err)
			}
			return
		case <-again.C:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-limit:
			t.Fatal("it drains on")
		}
	}
}
