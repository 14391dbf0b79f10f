package peer

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// ListenerName is what an internal listener is called among the listeners that an agent tells the cluster.
const ListenerName = "internal"

// Config is what Server and Client have in common. The zero value of a tunable is its default.
type Config struct {
	// Secret is the cluster's. Required.
	Secret Secret

	// HandshakeTimeout bounds the proof at the start of a connection, with dialling on the caller's side. Default 3 s.
	HandshakeTimeout time.Duration
	// Handshakes bounds the proofs under way. Default 256.
	Handshakes int
	// Connections bounds the connections of other agents. Default 4096.
	Connections int
	// PingInterval is how long a connection may be silent before its other end is asked for a sign of life, PingTimeout how
	// long that may take. Defaults 2 s and 3 s.
	PingInterval, PingTimeout time.Duration
	// StallTimeout bounds the time in which 256 KiB of an answer must be taken. Default 10 s.
	StallTimeout time.Duration

	// RequestBytesMax bounds a forwarded request, RequestBytes those that were read and not decoded yet, of all connections.
	// Defaults 2 MiB and 16 MiB.
	RequestBytesMax int
	RequestBytes    int
	// AnswerBytesMax bounds an answer to a forwarded request. Default 64 MiB.
	AnswerBytesMax int
	// ReadBytesMax bounds one range that is read, ReadBytes all that are on their way, on each side, for tail
	// reads and for replays each. Defaults 16 MiB and 32 MiB.
	ReadBytesMax int
	ReadBytes    int

	// Logger gets a line where a stranger calls, one a minute. Default: discard.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Validate reports every problem and fills in defaults.
func (c *Config) Validate() error {
	var errs []error
	if c.Secret == (Secret{}) {
		errs = append(errs, errors.New("peer: no secret"))
	}
	count := func(name string, v *int, def int) {
		if *v == 0 {
			*v = def
		}
		if *v < 0 {
			errs = append(errs, fmt.Errorf("peer: %s is negative: %d", name, *v))
		}
	}
	period := func(name string, v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
		if *v < 0 {
			errs = append(errs, fmt.Errorf("peer: %s is negative: %v", name, *v))
		}
	}
	period("handshake timeout", &c.HandshakeTimeout, 3*time.Second)
	period("ping interval", &c.PingInterval, 2*time.Second)
	period("ping timeout", &c.PingTimeout, 3*time.Second)
	period("stall timeout", &c.StallTimeout, 10*time.Second)
	count("handshakes", &c.Handshakes, 256)
	count("connections", &c.Connections, 4096)
	count("request bytes max", &c.RequestBytesMax, 2<<20)
	count("request bytes", &c.RequestBytes, max(16<<20, c.RequestBytesMax))
	count("answer bytes max", &c.AnswerBytesMax, 64<<20)
	count("read bytes max", &c.ReadBytesMax, 16<<20)
	count("read bytes", &c.ReadBytes, max(32<<20, c.ReadBytesMax))
	if c.RequestBytes < c.RequestBytesMax {
		errs = append(errs, errors.New("peer: request bytes are below the largest request"))
	}
	if c.ReadBytes < c.ReadBytesMax {
		errs = append(errs, errors.New("peer: read bytes are below the largest range"))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return errors.Join(errs...)
}
