package peer

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/sync/semaphore"
)

// Range is what another agent is asked for of an object.
type Range struct {
	Key            string
	ObjectSize     int64 // bytes
	Position, Size int64
	// Held asks for what is in memory; *NotHeld where it is not.
	Held bool
	// Cold says that a replay wants it: replays have bounds of their own, so that they do not shut out those who read the tail.
	Cold bool
}

// ErrBusy: the agent gives as many bytes as it may.
var ErrBusy = errors.New("agent busy")

// NotHeld is the answer where what was asked for is not in the agent's memory.
type NotHeld struct {
	// Below: nor is any object that it uploaded under a lower sequence. 0 says nothing.
	Below uint64
}

func (e *NotHeld) Error() string { return fmt.Sprintf("not in memory, nor anything below %d", e.Below) }

// kinds of ranges: tail reads and replays.
const kinds = 2

func (q *Range) kind() int {
	if q.Cold {
		return 1
	}
	return 0
}

// newRanges makes the bounds of what is on its way, by kind.
func newRanges(cfg Config) (bounds [kinds]*semaphore.Weighted) {
	for i := range bounds {
		bounds[i] = semaphore.NewWeighted(int64(cfg.ReadBytes))
	}
	return bounds
}

func (q *Range) encode() string {
	v := url.Values{
		"key": {q.Key}, "position": {strconv.FormatInt(q.Position, 10)}, "size": {strconv.FormatInt(q.Size, 10)},
		"of": {strconv.FormatInt(q.ObjectSize, 10)},
	}
	if q.Held {
		v.Set("held", "1")
	}
	if q.Cold {
		v.Set("cold", "1")
	}
	return v.Encode()
}

func parseRange(v url.Values) (Range, error) {
	q := Range{Key: v.Get("key"), Held: v.Get("held") != "", Cold: v.Get("cold") != ""}
	var errs [3]error
	q.Position, errs[0] = strconv.ParseInt(v.Get("position"), 10, 64)
	q.Size, errs[1] = strconv.ParseInt(v.Get("size"), 10, 64)
	q.ObjectSize, errs[2] = strconv.ParseInt(v.Get("of"), 10, 64)
	return q, errors.Join(errs[:]...)
}

// Headers of refused ranges.
const (
	headerBelow = "Firn-Below" // of NotHeld
	headerBusy  = "Firn-Busy"  // of ErrBusy
)

// refuseRange answers a range with why it is not given.
func (s *Server) refuseRange(w http.ResponseWriter, err error) {
	var none *NotHeld
	status := http.StatusBadGateway
	switch {
	case errors.As(err, &none):
		w.Header().Set(headerBelow, strconv.FormatUint(none.Below, 10))
		status = http.StatusNotFound
	case errors.Is(err, ErrBusy):
		w.Header().Set(headerBusy, "1")
		status = http.StatusServiceUnavailable
	}
	s.refuse(w, kindSegment, status, err.Error())
}

// refusal is err as what the headers say.
func refusal(h http.Header, err error) error {
	if h.Get(headerBusy) != "" {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if v := h.Get(headerBelow); v != "" {
		if below, parseErr := strconv.ParseUint(v, 10, 64); parseErr == nil {
			return fmt.Errorf("%w: %w", &NotHeld{Below: below}, err)
		}
	}
	return err
}
