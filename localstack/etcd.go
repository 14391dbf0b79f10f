package localstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Member is one process of etcd.
type Member struct {
	*Process
	Client string // host:port that agents connect to
	Dir    string // its data

	direct string // host:port of the process itself, with no link before it
}

// etcd makes n members that know of each other; nothing is started.
func (s *Stack) etcd(n int, binary string) error {
	type addresses struct{ client, clientLink, peer, peerLink string }
	at := make([]addresses, n)
	var cluster, clients []string
	for i := range at {
		name := fmt.Sprintf("e%d", i+1)
		var err error
		if at[i].client, at[i].clientLink, err = s.address(name, "client"); err != nil {
			return err
		}
		if at[i].peer, at[i].peerLink, err = s.address(name, "peer"); err != nil {
			return err
		}
		cluster = append(cluster, name+"=http://"+at[i].peerLink)
		clients = append(clients, at[i].clientLink)
	}
	for i, a := range at {
		name := fmt.Sprintf("e%d", i+1)
		dir, file := filepath.Join(s.Dir, "etcd-"+name), "etcd-"+name+".log"
		if n == 1 {
			dir, file = filepath.Join(s.Dir, "etcd"), "etcd.log"
		}
		p, err := newProcess(name, binary, filepath.Join(s.Dir, file),
			"--name", name, "--data-dir", dir, "--log-level", "error",
			"--listen-client-urls", "http://"+a.client, "--advertise-client-urls", "http://"+a.clientLink,
			"--listen-peer-urls", "http://"+a.peer, "--initial-advertise-peer-urls", "http://"+a.peerLink,
			"--initial-cluster", strings.Join(cluster, ","), "--quota-backend-bytes", "8589934592")
		if err != nil {
			return err
		}
		s.Members = append(s.Members, &Member{Process: p, Client: a.clientLink, Dir: dir, direct: a.client})
	}
	s.Etcd, s.EtcdAddr, s.EtcdDir = s.Members[0].Process, strings.Join(clients, ","), s.Members[0].Dir
	return nil
}

// IsLeader asks the member itself, past any link.
func (m *Member) IsLeader(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+m.direct+"/v3/maintenance/status", strings.NewReader("{}"))
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var status struct {
		Header struct {
			Member string `json:"member_id"`
		} `json:"header"`
		Leader string `json:"leader"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return false, fmt.Errorf("%s: status: %s: %w", m.Name(), resp.Status, err)
	}
	return status.Leader != "" && status.Leader == status.Header.Member, nil
}

// Leader is the member that leads, once there is one.
func (s *Stack) Leader(ctx context.Context) (*Member, error) {
	var last error
	for ctx.Err() == nil {
		for _, m := range s.Members {
			leads, err := m.IsLeader(ctx)
			if leads {
				return m, nil
			}
			last = err
		}
		pause(ctx)
	}
	return nil, fmt.Errorf("etcd has no leader: %w", errors.Join(context.Cause(ctx), last))
}

// BuildEtcd builds the etcd server of go.mod's version to path, unless it is there already.
func BuildEtcd(ctx context.Context, path string) (string, error) {
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "go.etcd.io/etcd/server/v3").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build etcd: %w\n%s", err, out)
	}
	return path, nil
}
