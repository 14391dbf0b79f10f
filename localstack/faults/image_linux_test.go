//go:build interop

package faults

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack"
)

// TestTheImageWithoutAContainer builds the program as localstack/Dockerfile does and runs it as the image would: as a user that is not
// root, in a root directory that holds the program, its data directory and nothing else.
func TestTheImageWithoutAContainer(t *testing.T) {
	dockerfile, err := os.ReadFile("../Dockerfile")
	must(t, err)
	build := regexp.MustCompile(`(?m)^RUN (go build .* -o) /out/firn ./cmd/firn`).FindSubmatch(dockerfile)
	if build == nil || !bytes.Contains(dockerfile, []byte("\nENV CGO_ENABLED=0\n")) {
		t.Fatal("the Dockerfile does not build firn as it did")
	}
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	program := filepath.Join(root, "firn")
	cmd := exec.Command("bash", "-euc", string(build[1])+` "$0" ./cmd/firn`, program)
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := elf.Open(program)
	must(t, err)
	defer file.Close()
	libraries, err := file.ImportedLibraries()
	must(t, err)
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it wants a dynamic linker")
		}
	}
	if len(libraries) > 0 {
		t.Errorf("it wants %v", libraries)
	}

	const user = 65532
	data := filepath.Join(root, "var", "lib", "firn")
	must(t, os.MkdirAll(data, 0o755))
	jail := &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		must(t, os.Chown(data, user, user))
		jail.Credential = &syscall.Credential{Uid: user, Gid: user}
	} else { // somebody else may change the root in a user namespace of their own
		jail.Cloneflags = syscall.CLONE_NEWUSER
		jail.UidMappings = []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getuid(), Size: 1}}
		jail.GidMappings = []syscall.SysProcIDMap{{ContainerID: user, HostID: os.Getgid(), Size: 1}}
	}
	kafka, err := localstack.FreeAddr()
	must(t, err)
	web, err := localstack.FreeAddr()
	must(t, err)
	var out limited
	agent := exec.Command("/firn", "dev", "--kafka", kafka, "--http", web)
	agent.Env = []string{"FIRN_DATA_DIR=/var/lib/firn"}
	agent.Dir, agent.SysProcAttr, agent.Stdout, agent.Stderr = "/", jail, &out, &out
	must(t, agent.Start())
	done := make(chan error, 1)
	go func() { done <- agent.Wait() }()
	t.Cleanup(func() { _ = agent.Process.Kill() })
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, fmt.Errorf("a minute passed"))
	defer cancel()
	until(ctx, t, "the agent is ready", func() bool {
		select {
		case err := <-done:
			t.Fatalf("it ended: %v\n%s", err, out.String())
		default:
		}
		resp, err := http.Get("http://" + web + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})

	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agent.Process.Pid))
	must(t, err)
	if os.Getuid() == 0 && !regexp.MustCompile(fmt.Sprintf(`(?m)^Uid:\s+%d\s+%[1]d\s+%[1]d`, user)).Match(status) {
		t.Errorf("it does not run as %d:\n%s", user, status)
	}
	health := exec.Command("/firn", "health", "--ready", "--http", web) // the image's check, in the same place
	health.Dir, health.SysProcAttr = "/", jail
	if said, err := health.CombinedOutput(); err != nil {
		t.Errorf("firn health: %v\n%s", err, said)
	}
	produce := exec.Command(firnBin, "produce", "events", "--brokers", kafka)
	produce.Stdin = strings.NewReader("hello\n")
	if said, err := produce.CombinedOutput(); err != nil {
		t.Errorf("produce: %v\n%s", err, said)
	}
	must(t, agent.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("after SIGTERM: %v\n%s", err, out.String())
		}
	case <-ctx.Done():
		t.Errorf("it does not end on SIGTERM\n%s", out.String())
	}
}

// TestSystemdTakesTheUnit: systemd's own check has nothing to say about docs/deploy/firn.service, and finds it hardened.
func TestSystemdTakesTheUnit(t *testing.T) {
	unit, err := os.ReadFile("../../docs/deploy/firn.service")
	must(t, err)
	firn, err := filepath.Abs(firnBin)
	must(t, err)
	path := filepath.Join(t.TempDir(), "firn.service")
	must(t, os.WriteFile(path, bytes.ReplaceAll(unit, []byte("/usr/local/bin/firn"), []byte(firn)), 0o644))
	if out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", path).CombinedOutput(); err != nil {
		t.Errorf("security: %v\n%s", err, out)
	}
}
