package kafka

import (
	"context"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// Poison makes the server overwrite buffers as they return to the pool.
func (s *Server) Poison() { s.pool.poison = true }

// Serve1 serves one connection; it returns when the connection has ended.
func (s *Server) Serve1(nc net.Conn) {
	c := newConn(s, nc)
	c.run()
}

// InFlight and FetchInFlight report whether all of a budget is there again.
func (s *Server) InFlight() bool {
	return s.inFlight.sem.TryAcquire(int64(s.cfg.InFlightBytes)) && release(s.inFlight, s.cfg.InFlightBytes)
}

func (s *Server) FetchInFlight() bool {
	return s.fetchBudget.sem.TryAcquire(int64(s.cfg.FetchInFlightBytes)) && release(s.fetchBudget, s.cfg.FetchInFlightBytes)
}

func release(b *budget, n int) bool {
	b.sem.Release(int64(n))
	return true
}

// Sessions is how many fetch sessions there are.
func (s *Server) Sessions() int {
	s.sessions.mu.Lock()
	defer s.sessions.mu.Unlock()
	return len(s.sessions.byID)
}

// Versions lists what is spoken, advertised or not.
func Versions() (list []struct {
	Key, Min, Max int16
	Hidden        bool
}) {
	for _, a := range apis {
		list = append(list, struct {
			Key, Min, Max int16
			Hidden        bool
		}{a.key, a.min, a.max, a.hidden})
	}
	return list
}

// CheckShape walks a body.
func CheckShape(key, version int16, body []byte) error { return shapes()[key].check(version, body) }

// ParseRequest runs the header and body parsers of a frame, as the executor would.
func ParseRequest(b []byte) error {
	r, unknown, err := parseRequest(b)
	if err != nil || unknown {
		return err
	}
	if r.key == keyProduce {
		_, err = parseProduce(r.version, r.body)
		return err
	}
	s := &Server{shapes: shapes()}
	_, err = s.decode(&r)
	return err
}

// Body splits a frame whose header is good; nil where it is not.
func Body(b []byte) (key, version int16, body []byte) {
	r, unknown, err := parseRequest(b)
	if err != nil || unknown {
		return 0, 0, nil
	}
	return r.key, r.version, r.body
}

// ErrMalformed is the class of everything that ParseRequest refuses.
var ErrMalformed = errMalformed

// OfState and OfError are the mappings of errors.go.
func OfState(c state.Code) (int16, bool) { code, ok := ofState(c); return int16(code), ok }

func OfError(err error) (int16, bool) {
	code, ok := ofError(err, codeRequestTimedOut)
	return int16(code), ok
}

// NextEpoch is the session epoch after e.
func NextEpoch(e int32) int32 { return nextEpoch(e) }

// Begin runs the session logic of a request.
func (s *Server) Begin(req *kmsg.FetchRequest) (id int32, parts int, code int16) {
	plan, c := s.sessions.begin(req, time.Now())
	return plan.sessionID, len(plan.parts), int16(c)
}

// Barrier takes a barrier as handlers do.
func (s *Server) Barrier(ctx context.Context) error { return s.barrier(ctx) }
