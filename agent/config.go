package agent

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Config are an agent's settings. The zero value of a tunable is its default; Validate reports every problem at once.
type Config struct {
	// Name is the agent's stable name. Required.
	Name string
	// Advertise is the host:port that clients are sent to. Required.
	Advertise string
	// Zone is where the agent runs; empty where that does not matter.
	Zone string
	// Version is the build, for people.
	Version string

	// AutoCreateTopics lets a Metadata or produce request make a topic. DefaultPartitions is how many partitions it gets.
	AutoCreateTopics  bool
	DefaultPartitions int // default 1

	// SegmentBytes is the raw size at which a segment is closed. Default 8 MiB.
	SegmentBytes int
	// FlushInterval is the longest that a record waits for company. Default 250 ms; a lone producer never waits.
	FlushInterval time.Duration
	// UploadSlots is how many uploads run at once. Default 4.
	UploadSlots int
	// StageBytes bounds record batches in memory that are not applied yet. Default 64 MiB; beyond it they are spilled.
	StageBytes int64
	// CacheBytes bounds the read cache. Default 128 MiB.
	CacheBytes int64
	// WALBytes bounds the write-ahead log's disk space. Default 1 GiB.
	WALBytes int64
	// RequestBytes bounds one produce request. Default 16 MiB.
	RequestBytes int
	// DrainTimeout bounds a drain. Default 30 s.
	DrainTimeout time.Duration
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	if c.Name == "" {
		errs = append(errs, errors.New("agent: the name is empty"))
	}
	if host, port, err := net.SplitHostPort(c.Advertise); err != nil || host == "" {
		errs = append(errs, fmt.Errorf("agent: advertised address %q is not host:port", c.Advertise))
	} else if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		errs = append(errs, fmt.Errorf("agent: advertised address %q: port %q is not a number from 1 to 65535", c.Advertise, port))
	}
	number(&errs, "default partitions", &c.DefaultPartitions, 1, 1, 10_000)
	number(&errs, "segment bytes", &c.SegmentBytes, 8<<20, 64<<10, 64<<20)
	number(&errs, "flush interval", &c.FlushInterval, 250*time.Millisecond, time.Millisecond, time.Minute)
	number(&errs, "upload slots", &c.UploadSlots, 4, 1, 256)
	number(&errs, "stage bytes", &c.StageBytes, 64<<20, 1<<20, 1<<40)
	number(&errs, "cache bytes", &c.CacheBytes, 128<<20, 1<<20, 1<<40)
	number(&errs, "wal bytes", &c.WALBytes, 1<<30, 64<<20, 1<<50)
	number(&errs, "request bytes", &c.RequestBytes, 16<<20, 64<<10, 1<<30)
	number(&errs, "drain timeout", &c.DrainTimeout, 30*time.Second, time.Second, time.Hour)
	return errors.Join(errs...)
}

// number applies a default and checks bounds.
func number[T int | int64 | time.Duration](errs *[]error, name string, v *T, def, lo, hi T) {
	if *v == 0 {
		*v = def
	}
	if *v < lo || *v > hi {
		*errs = append(*errs, fmt.Errorf("agent: %s must lie between %v and %v, not %v", name, lo, hi, *v))
	}
}
