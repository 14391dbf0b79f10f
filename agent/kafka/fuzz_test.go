package kafka_test

import (
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore/batch"
)

// corpus is a request of every version spoken, without its size.
func corpus(f *testing.F, add func(key, version int16, frame []byte)) {
	f.Helper()
	raw := records(f, batch.BuildOptions{}, "a", "b")
	for _, v := range kafka.Versions() {
		for version := v.Min; version <= v.Max; version++ {
			var req kmsg.Request = produceRequest(version, "t", 0, raw)
			switch v.Key {
			case 0:
			case 1:
				req = fetchRequest(version, "t", entry.UUID{0x42}, 0, 0)
			default:
				req = kmsg.RequestForKey(v.Key)
				req.SetVersion(version)
			}
			add(v.Key, version, kmsg.NewRequestFormatter(kmsg.FormatterClientID("fuzz")).AppendRequest(nil, req, 7)[4:])
		}
	}
}

// Whatever comes is a request or malformed; and what its shape allows, kmsg decodes, so that the walk before the decoder
// refuses no less than the decoder would. Nothing allocates out of proportion.
func FuzzRequest(f *testing.F) {
	corpus(f, func(_, _ int16, frame []byte) { f.Add(frame) })
	f.Add([]byte{0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	for _, v := range kafka.Versions() {
		for _, body := range kafka.Bodies(v.Key, v.Max, 300, true) {
			f.Add(append(header(v.Key, v.Max), body...))
		}
	}
	// A partition of a Fetch with a tag that kmsg knows, the id of a directory, of a size that no id has.
	f.Add(slices.Concat(header(1, 18), make([]byte, 21), []byte{2}, make([]byte, 16), []byte{2}, make([]byte, 32), []byte{1, 0, 1, 'x', 0, 1, 1, 0}))
	decode := kafka.Decoder()
	f.Fuzz(func(t *testing.T, frame []byte) {
		var err error
		if got := allocated(func() { err = decode(frame) }); got > allocatedMax(len(frame)) {
			t.Errorf("%d bytes allocated for a frame of %d", got, len(frame))
		}
		if err != nil && !errors.Is(err, kafka.ErrMalformed) {
			t.Errorf("%v is no kind of malformed", err)
		}
		key, version, body := kafka.Body(frame)
		if body == nil || kafka.CheckShape(key, version, body) != nil {
			return
		}
		if key == 0 {
			if err != nil {
				t.Errorf("Produce version %d: the shape fits and the decoder says %v", version, err)
			}
			return
		}
		if key == 1 && version >= 12 && err != nil {
			return // the walk steps over tags; of those that kmsg knows it checks the size, and the request is refused all the same
		}
		req := kmsg.RequestForKey(key)
		req.SetVersion(version)
		if err := req.ReadFrom(body); err != nil {
			t.Errorf("%s version %d: the shape fits and the decoder says %v", kmsg.NameForKey(key), version, err)
		}
	})
}

// Whatever is asked, the answer is one that clients can read, and serving it takes about what was charged for it.
func FuzzAnswer(f *testing.F) {
	corpus(f, func(_, _ int16, frame []byte) { f.Add(frame) })
	for _, v := range kafka.Versions() {
		for _, body := range kafka.Bodies(v.Key, v.Max, 30, false) {
			f.Add(append(header(v.Key, v.Max), body...))
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		key, version, body := kafka.Body(frame)
		if body == nil || key == 0 {
			return
		}
		a := newCluster(t).join("a")
		a.topic("t", 3)
		s := server(t, a, func(c *kafka.Config) { c.FetchWaitMax, c.AutoCreateTopics = time.Millisecond, true })
		var answer []byte
		var charged int64
		var err error
		got := allocated(func() { answer, charged, err = s.HandleFrame(frame) })
		if err != nil {
			return
		}
		// Topics that are made are the state's, and entries of it.
		if got > 8*charged+4<<20 {
			t.Errorf("%s version %d: %d bytes allocated, %d charged", kmsg.NameForKey(key), version, got, charged)
		}
		res := kmsg.ResponseForKey(key)
		res.SetVersion(version)
		if key == 1 { // comes with its header
			answer = answer[8:]
			if res.IsFlexible() {
				answer = answer[1:]
			}
		}
		if err := res.ReadFrom(answer); err != nil {
			t.Errorf("%s version %d: the answer does not decode: %v", kmsg.NameForKey(key), version, err)
		}
	})
}

// A connection of arbitrary bytes ends when the client goes, without a panic and with every buffer given back.
func FuzzConnection(f *testing.F) {
	corpus(f, func(_, _ int16, frame []byte) { f.Add(framed(frame)) })
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a)
		ours, theirs := net.Pipe()
		served := make(chan struct{})
		go func() { defer close(served); s.Serve1(theirs) }()
		read := make(chan struct{})
		go func() { defer close(read); _, _ = io.Copy(io.Discard, ours) }()
		_, _ = ours.Write(stream)
		_ = ours.Close()
		<-served
		<-read
	})
}
