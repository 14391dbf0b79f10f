package localstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const stopSignal = syscall.SIGTERM

// Process is one program under a Stack. Its methods are safe for concurrent use.
//
// It leads a process group of its own: what a terminal sends with Ctrl-C does not reach it, and whatever it started ends with it.
type Process struct {
	name string
	path string
	log  *os.File

	mu   sync.Mutex // guards the rest
	args []string
	env  []string  // KEY=value, beside ours
	cmd  *exec.Cmd // nil while it does not run
	done chan struct{}
	err  error // of the last run
}

func newProcess(name, path, logPath string, args ...string) (*Process, error) {
	f, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &Process{name: name, path: path, args: args, log: f}, nil
}

// Name is what the Stack calls it: a1, e1, minio, haproxy.
func (p *Process) Name() string { return p.name }

// LogPath is the file that its output goes to.
func (p *Process) LogPath() string { return p.log.Name() }

// Args is its command line, without the program.
func (p *Process) Args() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.args...)
}

// SetArgs changes its command line from the next Start on.
func (p *Process) SetArgs(args ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.args = append([]string(nil), args...)
}

// Start runs the program; it must not be running.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return fmt.Errorf("%s runs already", p.name)
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.Env = append(os.Environ(), p.env...)
	cmd.SysProcAttr = endsWithUs()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		err := cmd.Wait()
		endGroup(cmd.Process.Pid)
		p.mu.Lock()
		p.cmd, p.err = nil, err
		p.mu.Unlock()
		close(done)
	}()
	return nil
}

// Signal sends sig; a process that does not run is an error.
func (p *Process) Signal(sig os.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("%s does not run: %w", p.name, os.ErrProcessDone)
	}
	return p.cmd.Process.Signal(sig)
}

// Kill ends it as kill -9 does and waits until it is gone.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL, time.Minute) }

// Stop asks it to end in its own time (an agent drains), and waits up to timeout.
func (p *Process) Stop(timeout time.Duration) error { return p.end(stopSignal, timeout) }

// Pause halts it as a machine that hangs would, with its connections open; Resume lets it go on.
func (p *Process) Pause() error { return p.Signal(pauseSignal) }

// Resume undoes Pause.
func (p *Process) Resume() error { return p.Signal(resumeSignal) }

// Await waits until it ends or ctx does.
func (p *Process) Await(ctx context.Context) error {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s still runs: %w", p.name, context.Cause(ctx))
	}
}

func (p *Process) end(sig os.Signal, timeout time.Duration) error {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if err := p.Signal(sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return err
	}
	select {
	case <-done:
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("%s did not end within %v of %v; see %s", p.name, timeout, sig, p.LogPath())
	}
}

// Running says whether it runs, and Err how its last run ended.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// Err is how the last run ended; nil while it runs or where it ended well.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// PID is the process id, 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

func (p *Process) close() {
	_ = p.Kill()
	_ = p.log.Close()
}
