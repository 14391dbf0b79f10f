package agent

import (
	"cmp"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// dataFormat is the layout of a data directory that this build reads and writes.
const dataFormat = 1

// identityFile lies in the data directory and says what the directory is.
const identityFile = "firn.json"

// DataDir is an agent's local directory: its name, and below it the write-ahead log. Losing it loses nothing acknowledged; the
// agent that starts without it is a new one.
type DataDir struct {
	Path string
	identity
}

type identity struct {
	Format int    `json:"format"`
	Agent  string `json:"agent"` // stable name of the agent
	LogID  string `json:"log_id,omitempty"`
	WALID  string `json:"wal_id,omitempty"` // of the write-ahead log below the directory, hex
}

// ErrDataDir: the directory cannot be used; the message says why and what to do.
var ErrDataDir = errors.New("unusable data directory")

// OpenDataDir opens or makes the directory. name overrides the agent's stored name only where none is stored yet.
func OpenDataDir(path, name string) (*DataDir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("%w: %w; choose another with --data-dir", ErrDataDir, err)
	}
	d := &DataDir{Path: path}
	found, err := d.read(name)
	if err != nil {
		return nil, err
	}
	if !found {
		d.identity = identity{Format: dataFormat, Agent: cmp.Or(name, "agent-"+strings.ToLower(crand.Text()[:10]))}
	}
	// Writing it again shows at the start, not at the first produce, that the directory is writable.
	if err := d.write(); err != nil {
		return nil, fmt.Errorf("%w: %s is not writable: %w; choose another with --data-dir", ErrDataDir, path, err)
	}
	return d, nil
}

// read takes the identity from the directory, where there is one, and judges it.
func (d *DataDir) read(name string) (found bool, err error) {
	body, err := os.ReadFile(filepath.Join(d.Path, identityFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%w: %w", ErrDataDir, err)
	}
	if err := json.Unmarshal(body, &d.identity); err != nil {
		return false, fmt.Errorf("%w: %s: %w; it is not firn's, or damaged: write the agent's name back into it, or move it away, "+
			"and the agent that starts is a new one", ErrDataDir, filepath.Join(d.Path, identityFile), err)
	}
	if d.Format < 1 || d.Agent == "" {
		return false, fmt.Errorf("%w: %s names no format or no agent; it is not firn's, or damaged: write the agent's name back into it, or move it away, "+
			"and the agent that starts is a new one", ErrDataDir, filepath.Join(d.Path, identityFile))
	}
	if d.Format > dataFormat {
		return false, fmt.Errorf("%w: %s was written by a newer firn (format %d, this one knows %d); run that one, or use another directory",
			ErrDataDir, d.Path, d.Format, dataFormat)
	}
	if name != "" && name != d.Agent {
		return false, fmt.Errorf("%w: %s belongs to agent %q, this one is to be %q; give each agent its own directory", ErrDataDir, d.Path, d.Agent, name)
	}
	return true, nil
}

// CheckDataDir says what OpenDataDir would refuse, and makes nothing that stays. It returns the agent's name, "" where
// it is still to be made.
func CheckDataDir(path, name string) (string, error) {
	d := &DataDir{Path: path}
	if _, err := d.read(name); err != nil && !errors.Is(err, syscall.ENOTDIR) {
		return "", err
	}
	// The directory, or the nearest above it that is there, must take a file.
	at := filepath.Clean(path)
	for {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			return "", fmt.Errorf("%w: %s is a file; choose another with --data-dir", ErrDataDir, at)
		}
		if err == nil {
			break
		}
		if up := filepath.Dir(at); (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) && up != at {
			at = up
			continue
		}
		return "", fmt.Errorf("%w: %w; choose another with --data-dir", ErrDataDir, err)
	}
	f, err := os.CreateTemp(at, identityFile+".*")
	if err != nil {
		return "", fmt.Errorf("%w: %s is not writable: %w; choose another with --data-dir", ErrDataDir, at, err)
	}
	return cmp.Or(name, d.Agent), errors.Join(f.Close(), os.Remove(f.Name()))
}

// Claim binds the directory to a cluster's log, or refuses one that is bound to another.
func (d *DataDir) Claim(logID string) error {
	if d.LogID == logID {
		return nil
	}
	if d.LogID != "" {
		return fmt.Errorf("%w: %s belongs to the cluster with log %s, the metastore holds log %s; use that cluster's metastore, or another directory",
			ErrDataDir, d.Path, d.LogID, logID)
	}
	d.LogID = logID
	return d.write()
}

// checkWAL refuses a write-ahead log that is not the one that this directory had before.
func (d *DataDir) checkWAL(id string) error {
	if d.WALID == "" || d.WALID == id {
		return nil
	}
	return fmt.Errorf("%w: the write-ahead log below %s is %s, of another agent; this agent's is %s. Put that one back, or move this one away: "+
		"nothing acknowledged is in it alone", ErrDataDir, d.Path, id, d.WALID)
}

// claimWAL remembers the write-ahead log that the agent works with.
func (d *DataDir) claimWAL(id string) error {
	if d.WALID == id {
		return nil
	}
	d.WALID = id
	return d.write()
}

// write replaces the identity file whole.
func (d *DataDir) write() error {
	body, err := json.MarshalIndent(d.identity, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(d.Path, identityFile+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(append(body, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(d.Path, identityFile))
}
