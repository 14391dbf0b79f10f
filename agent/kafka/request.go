package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/fetch"
)

// request is one request on the executor.
type request struct {
	conn        *conn
	frame       *frame
	key         int16
	version     int16
	correlation int32
	clientID    string
	body        []byte // aliases the frame
	at          time.Time
	// late: it has waited behind others, or could not be passed on, for so long perhaps that its client has sent the next one another
	// way. A commit of offsets is then not done any more.
	late bool
	// held is the answer's hold, for handlers that wait long: they give it back meanwhile. nil for a Produce.
	held *hold
	// ready is closed when what a Produce staged has its outcome; nil where nothing was staged.
	ready chan struct{}
}

// headerBytesMin is what every request has: key, version, correlation id.
const headerBytesMin = 8

// parseRequest reads the header. unknownVersion reports an ApiVersions request of a version we do not speak, of which
// nothing else was read. Errors wrap errMalformed.
func parseRequest(b []byte) (r request, unknownVersion bool, err error) {
	if len(b) < headerBytesMin {
		return r, false, fmt.Errorf("%w: %d bytes", errMalformed, len(b))
	}
	r.key = int16(binary.BigEndian.Uint16(b))
	r.version = int16(binary.BigEndian.Uint16(b[2:]))
	r.correlation = int32(binary.BigEndian.Uint32(b[4:]))
	a, ok := lookupAPI(r.key)
	switch {
	case !ok:
		return r, false, fmt.Errorf("%w: unknown API key %d", errMalformed, r.key)
	case !a.speaks(r.version) && r.key == keyApiVersions:
		return r, true, nil
	case !a.speaks(r.version):
		return r, false, fmt.Errorf("%w: %s version %d", errMalformed, kmsg.NameForKey(r.key), r.version)
	}
	w := walker{b: b[headerBytesMin:], elements: elementsMax, room: roomSlack}
	if n := w.length(2); n > 0 && n <= len(w.b) { // the client id is never compact
		r.clientID = string(w.b[:n])
		w.skip(n)
	} else if n > 0 {
		w.skip(n)
	}
	if flexible(r.key, r.version) {
		w.flexible = true
		w.tags(0)
	}
	if w.why != "" {
		return r, false, fmt.Errorf("%w: header: %s", errMalformed, w.why)
	}
	r.body = w.b
	return r, false, nil
}

// flexible reports whether a version has compact lengths and tags.
func flexible(key, version int16) bool {
	switch key {
	case keyProduce:
		return version >= 9
	case keyFetch:
		return version >= 12
	}
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	return req.IsFlexible()
}

// decode turns the body of a's request into kmsg's struct. Nothing in it aliases the frame. What it takes, and is about to take
// until it is answered, is charged first. Errors that are not of the connection's end wrap errMalformed.
func (s *Server) decode(ctx context.Context, a *answer) (kmsg.Request, error) {
	r := &a.request
	r.held = &a.held
	need, err := s.shapes[r.key].check(r.version, r.body)
	if err != nil {
		return nil, fmt.Errorf("%s version %d: %w", kmsg.NameForKey(r.key), r.version, err)
	}
	for room := int64(need); ; {
		if err := a.held.take(ctx, r.conn, room); err != nil {
			return nil, err
		}
		msg, err := decode(r)
		if err != nil {
			return nil, err
		}
		// Only now is known what it asks for. Where there is no room for that, it starts over with all of it at once.
		more := s.answerRoom(msg)
		if room > int64(need) || a.held.more(r.conn, more) {
			r.conn.charged.Store(a.held.n > 0)
			return msg, nil
		}
		a.held.give(r.conn)
		room += more
	}
}

func decode(r *request) (kmsg.Request, error) {
	msg := kmsg.RequestForKey(r.key)
	msg.SetVersion(r.version)
	if err := msg.ReadFrom(r.body); err != nil {
		return nil, fmt.Errorf("%w: %s version %d: %w", errMalformed, kmsg.NameForKey(r.key), r.version, err)
	}
	detach(msg)
	return msg, nil
}

// detach copies what the decoder left in the frame: bytes, which kmsg does not copy.
func detach(msg kmsg.Request) {
	switch req := msg.(type) {
	case *kmsg.JoinGroupRequest:
		for i := range req.Protocols {
			req.Protocols[i].Metadata = bytes.Clone(req.Protocols[i].Metadata)
		}
	case *kmsg.SyncGroupRequest:
		for i := range req.GroupAssignment {
			req.GroupAssignment[i].MemberAssignment = bytes.Clone(req.GroupAssignment[i].MemberAssignment)
		}
	}
}

// reply is what a handler returns. The zero value is no answer at all.
type reply struct {
	// body appends the response's body. It runs on the writer, once ready is closed.
	body func(dst []byte) []byte
	// built is a whole response from handlers that put it together themselves: a buffer of the pool with headerRoom bytes
	// left for the header, ending up at the pool again. charge is given back to the fetch budget then.
	built  []byte
	charge int64
	// lent, where not nil, is what belongs between the bytes of built, which are its own. It is released when the answer has gone out.
	lent *fetch.Out
	// raw is a whole answer, without its size, that another agent gave.
	raw []byte
	// ready, where not nil, is closed when the rest may be looked at.
	ready <-chan struct{}
	// fault, read once ready, closes the connection instead of an answer.
	fault func() error
	// patience, where positive, is how long after the request's arrival ready is waited for. Then gaveUp is called, and from
	// there on body and fault must not look at what ready stands for.
	patience time.Duration
	gaveUp   func()
}

// say answers with a message at once.
func say(msg kmsg.Response) reply { return reply{body: msg.AppendTo} }

// headerRoom is the largest response header with its length: size, correlation id, empty tags.
const headerRoom = 4 + 4 + 1

// appendHeader appends room for the size, and the header.
func appendHeader(dst []byte, r *request) []byte {
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(r.correlation))
	// The response to ApiVersions always has the old header: the client may not know yet what we speak.
	if r.key != keyApiVersions && flexible(r.key, r.version) {
		dst = append(dst, 0)
	}
	return dst
}

// finish writes the size of the response that starts at start.
func finish(dst []byte, start int) []byte {
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}
