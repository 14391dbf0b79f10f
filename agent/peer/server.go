package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/firnlog/firn/agent/sparse"
)

// Headers of requests between agents.
const (
	headerTo       = "Firn-To"
	headerClient   = "Firn-Client"
	headerListener = "Firn-Listener"
)

// Forwarded is a Kafka request that a client sent to another agent.
type Forwarded struct {
	// Frame is the request without its size, header included.
	Frame []byte
	// Release says that nothing looks at Frame any more, so that others may take its room. Safe twice.
	Release func()
	// Client is the address of the client, Listener the name of the listener that it came by.
	Client, Listener string
}

// Handlers are what an agent does for others; each may be nil, and is then refused. They may be called at once.
type Handlers struct {
	// Self is this agent's node id, -1 before it has one. Required.
	Self func() int32
	// Incarnation is the one that this agent is joined as. Required.
	Incarnation func() string
	// Kafka answers a forwarded request with the answer's bytes without their size. ErrDraining where it takes none now.
	Kafka func(ctx context.Context, f Forwarded) ([]byte, error)
	// Segments reads a range of an object. The bytes are looked at until done is called, which may be nil. *NotHeld and ErrBusy
	// reach the caller as they are.
	Segments func(ctx context.Context, q Range) (body []byte, done func(), err error)
	// Status is what GET /v1/status answers, as JSON.
	Status func() any
}

// ErrDraining: the agent takes no more requests of this kind. It did nothing.
var ErrDraining = errors.New("agent is draining")

// Hello is who answers at an address.
type Hello struct {
	NodeID      int32  `json:"node_id"`
	Incarnation string `json:"incarnation"`
	// Process is made anew at each start of a process.
	Process string `json:"process"`
}

// Server is an agent's internal listener. Its methods are safe for concurrent use.
type Server struct {
	cfg      Config
	handlers atomic.Pointer[Handlers]
	process  string
	http     *http.Server
	requests *semaphore.Weighted        // bytes of forwarded requests
	ranges   [kinds]*semaphore.Weighted // bytes of ranges on their way out

	lines sparse.Lines

	mu     sync.Mutex // guards the rest
	gates  []*gate
	closed bool
}

// streamsMax is how many requests may wait on one connection: those of members that wait for their group, by the thousand. A
// caller at the bound waits, so it is far beyond what one agent's clients can come to.
const streamsMax = 1 << 20

// NewServer makes a server; Serve starts it. process names this process in Hello. Until Handle is called it says hello and
// refuses the rest.
func NewServer(cfg Config, process string) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, process: process,
		requests: semaphore.NewWeighted(int64(cfg.RequestBytes)), ranges: newRanges(cfg),
	}
	s.handlers.Store(&Handlers{Self: func() int32 { return -1 }, Incarnation: func() string { return "" }})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/hello", s.hello)
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/kafka", s.kafka)
	mux.HandleFunc("GET /v1/segment", s.segment)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	var open atomic.Int64
	s.http = &http.Server{
		Handler: mux, Protocols: &protocols, ReadHeaderTimeout: cfg.StallTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 8 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: streamsMax, SendPingTimeout: cfg.PingInterval, PingTimeout: cfg.PingTimeout, WriteByteTimeout: cfg.StallTimeout,
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // what peers do wrong they tell themselves
		ConnState: func(nc net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				cfg.Metrics.connections.Inc()
				if open.Add(1) > int64(cfg.Connections) {
					_ = nc.Close()
				}
			case http.StateClosed, http.StateHijacked:
				cfg.Metrics.connections.Dec()
				open.Add(-1)
			}
		},
	}
	return s, nil
}

// Handle sets what is done for other agents from now on.
func (s *Server) Handle(h Handlers) { s.handlers.Store(&h) }

// Serve lets agents in until the listener fails or the server is closed, which closes the listener. It returns
// http.ErrServerClosed, or why the listener failed.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		_ = ln.Close()
		return http.ErrServerClosed
	}
	g := newGate(ln, &s.cfg, &s.lines)
	s.gates = append(s.gates, g)
	s.mu.Unlock()
	err := s.http.Serve(g)
	_ = g.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return http.ErrServerClosed
	}
	return err
}

// Close ends every connection, and with it the contexts of the requests on it. It does not wait for handlers. Safe twice.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	gates := s.gates
	s.mu.Unlock()
	for _, g := range gates {
		_ = g.Close()
	}
	_ = s.http.Close()
}

// forUs refuses a request that was meant for another agent.
func (s *Server) forUs(w http.ResponseWriter, r *http.Request, h *Handlers, kind string) bool {
	self := h.Self()
	if to := r.Header.Get(headerTo); self < 0 || to != strconv.Itoa(int(self)) {
		s.refuse(w, kind, http.StatusMisdirectedRequest, fmt.Sprintf("this is agent %d, asked for %s", self, to))
		return false
	}
	return true
}

func (s *Server) refuse(w http.ResponseWriter, kind string, status int, why string) {
	s.cfg.Metrics.served.WithLabelValues(kind, strconv.Itoa(status)).Inc()
	http.Error(w, why, status)
}

func (s *Server) hello(w http.ResponseWriter, _ *http.Request) {
	h := s.handlers.Load()
	body, _ := json.Marshal(Hello{NodeID: h.Self(), Incarnation: h.Incarnation(), Process: s.process}) // cannot fail
	s.send(w, kindHello, body)
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	h := s.handlers.Load()
	if !s.forUs(w, r, h, kindStatus) {
		return
	}
	if h.Status == nil {
		s.refuse(w, kindStatus, http.StatusServiceUnavailable, "no status yet")
		return
	}
	body, err := json.Marshal(h.Status())
	if err != nil {
		s.refuse(w, kindStatus, http.StatusInternalServerError, err.Error())
		return
	}
	s.send(w, kindStatus, body)
}

func (s *Server) kafka(w http.ResponseWriter, r *http.Request) {
	h := s.handlers.Load()
	if !s.forUs(w, r, h, kindKafka) {
		return
	}
	size := r.ContentLength
	switch {
	case h.Kafka == nil:
		s.refuse(w, kindKafka, http.StatusServiceUnavailable, "not serving yet")
		return
	case size < 0 || size > int64(s.cfg.RequestBytesMax):
		s.refuse(w, kindKafka, http.StatusRequestEntityTooLarge, fmt.Sprintf("a request of %d bytes, %d allowed", size, s.cfg.RequestBytesMax))
		return
	}
	if err := s.requests.Acquire(r.Context(), size); err != nil {
		return // the caller is gone
	}
	var once sync.Once
	release := func() { once.Do(func() { s.requests.Release(size) }) }
	defer release()
	frame := make([]byte, size)
	deadline(http.NewResponseController(w).SetReadDeadline, s.cfg.StallTimeout)
	if _, err := io.ReadFull(r.Body, frame); err != nil {
		s.refuse(w, kindKafka, http.StatusBadRequest, "the request did not come whole")
		return
	}
	deadline(http.NewResponseController(w).SetReadDeadline, 0)
	answer, err := h.Kafka(r.Context(), Forwarded{
		Frame: frame, Release: release, Client: r.Header.Get(headerClient), Listener: r.Header.Get(headerListener),
	})
	switch {
	case errors.Is(err, ErrDraining):
		s.refuse(w, kindKafka, http.StatusServiceUnavailable, err.Error())
	case err != nil:
		s.refuse(w, kindKafka, http.StatusInternalServerError, err.Error())
	default:
		s.send(w, kindKafka, answer)
	}
}

func (s *Server) segment(w http.ResponseWriter, r *http.Request) {
	h := s.handlers.Load()
	if !s.forUs(w, r, h, kindSegment) {
		return
	}
	q, err := parseRange(r.URL.Query())
	switch {
	case h.Segments == nil:
		s.refuse(w, kindSegment, http.StatusServiceUnavailable, "not serving yet")
		return
	case err != nil || q.Key == "" || q.Position < 0 || q.Size < 1 || q.Size > int64(s.cfg.ReadBytesMax):
		s.refuse(w, kindSegment, http.StatusBadRequest, fmt.Sprintf("no range: position %d, size %d of 1 to %d", q.Position, q.Size, s.cfg.ReadBytesMax))
		return
	case !s.ranges[q.kind()].TryAcquire(q.Size):
		s.refuseRange(w, fmt.Errorf("%w: as many bytes as may be are on their way", ErrBusy))
		return
	}
	defer s.ranges[q.kind()].Release(q.Size)
	b, done, err := h.Segments(r.Context(), q)
	if err != nil {
		s.refuseRange(w, err)
		return
	}
	if done != nil {
		defer done()
	}
	s.send(w, kindSegment, b)
}

// sendStep is how much of an answer must be taken within Config.StallTimeout.
const sendStep = 256 << 10

func (s *Server) send(w http.ResponseWriter, kind string, b []byte) {
	s.cfg.Metrics.served.WithLabelValues(kind, "200").Inc()
	s.cfg.Metrics.sentBytes.WithLabelValues(kind).Add(float64(len(b)))
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	c := http.NewResponseController(w)
	for len(b) > 0 {
		n := min(len(b), sendStep)
		deadline(c.SetWriteDeadline, s.cfg.StallTimeout)
		if _, err := w.Write(b[:n]); err != nil {
			panic(http.ErrAbortHandler) // the answer must not look whole
		}
		b = b[n:]
	}
	_ = c.Flush()
	deadline(c.SetWriteDeadline, 0)
}

// deadline sets one of a connection's deadlines, d from now; 0 takes it away. A connection that has none is not held to it.
func deadline(set func(time.Time) error, d time.Duration) {
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	_ = set(t)
}
