package kafka

import (
	"context"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/batch"
)

// Produce (0), versions 0 to 13: 0 to 2 are answered with UNSUPPORTED_VERSION, see apis.
//
// Each partition's batch is validated here, staged, and answered once it is committed; acks 1 and all mean the same, and
// acks 0 differs only in that nothing is answered, and an error closes the connection so that the client learns of it.
//
// Where the outcome is not known when the request's timeout is over (the bucket or etcd is out), the answer is
// REQUEST_TIMED_OUT, as Kafka's is when replicas are late: clients send the batch again, and the state machine finds the
// copy by its sequence. The batch stays in the produce path, in its place, and holds memory there that bounds what comes
// after it; so a long outage costs neither connections nor memory.
// There is no transaction coordinator: a transactional id is answered with TRANSACTIONAL_ID_AUTHORIZATION_FAILED, which every
// client gives up on at once and reports by the name of the id, where UNSUPPORTED_VERSION or COORDINATOR_NOT_AVAILABLE would
// be retried or blamed on the client.

// byIDVersion is the first version that names topics by their ids: a producer that missed that its topic was made anew is
// told so (UNKNOWN_TOPIC_ID), instead of writing to the new one.
const byIDVersion = 13

// produceRequest is decoded by hand: the batches stay where they are in the frame.
type produceRequest struct {
	room          int  // what it takes until it is answered, its batches apart
	transactional bool // a transactional id is given
	acks          int16
	timeout       time.Duration
	byID          bool // topics are named by their ids
	late          bool // the timeout was over before the outcomes were known; of the writer
	topics        []producedTopic
}

type producedTopic struct {
	name       string // from version 13 on, the id in hexadecimal
	id         entry.UUID
	partitions []producedPartition
}

type producedPartition struct {
	index   int32
	records []byte // aliases the frame; not to be looked at once it is staged
	code    errorCode
	message string
	refused []*batch.RecordError
	part    *ingest.Part // where it was staged
}

// produceOutline is the outline of a Produce's topics. The room of an element is what parsing, looking up and answering it
// takes; that of a batch itself is part of the frame.
func produceOutline(index field, name ...field) field {
	partitions := listOf(index, field{kind: blob})
	partitions.room = int(unsafe.Sizeof(producedPartition{}) + unsafe.Sizeof(kmsg.ProduceResponseTopicPartition{}))
	topics := listOf(append(name, partitions)...)
	topics.room = int(unsafe.Sizeof(producedTopic{}) + unsafe.Sizeof(topicView{}) + unsafe.Sizeof(kmsg.ProduceResponseTopic{}))
	return topics
}

// parseProduce decodes a body. The walk over its shape has shown by then that everything is there, so that arrays are made
// as long as they claim to be. Errors wrap errMalformed.
func parseProduce(s shape, version int16, body []byte) (*produceRequest, error) {
	room, err := s.check(version, body)
	if err != nil {
		return nil, fmt.Errorf("%s version %d: %w", kmsg.NameForKey(keyProduce), version, err)
	}
	b := kbin.Reader{Src: body}
	flexible := version >= 9
	tags := func() {
		if flexible {
			for n := b.Uvarint(); n > 0; n-- {
				b.Uvarint()
				b.Span(int(b.Uvarint()))
			}
		}
	}
	arrayLen := func() int32 {
		if flexible {
			return max(b.CompactArrayLen(), 0)
		}
		return max(b.ArrayLen(), 0)
	}
	req := &produceRequest{room: room, byID: version >= byIDVersion}
	if version >= 3 {
		if flexible {
			req.transactional = b.UnsafeCompactNullableString() != nil
		} else {
			req.transactional = b.UnsafeNullableString() != nil
		}
	}
	req.acks = b.Int16()
	req.timeout = time.Duration(b.Int32()) * time.Millisecond
	req.topics = make([]producedTopic, arrayLen())
	for i := range req.topics {
		t := &req.topics[i]
		switch {
		case version >= byIDVersion:
			t.id = b.Uuid()
			t.name = t.id.String()
		case flexible:
			t.name = b.CompactString()
		default:
			t.name = b.String()
		}
		t.partitions = make([]producedPartition, arrayLen())
		for j := range t.partitions {
			p := &t.partitions[j]
			p.index = b.Int32()
			if flexible {
				p.records = b.CompactNullableBytes()
			} else {
				p.records = b.NullableBytes()
			}
			tags()
		}
		tags()
	}
	tags()
	if err := b.Complete(); err != nil {
		return nil, fmt.Errorf("%w: Produce version %d: %w", errMalformed, version, err)
	}
	return req, nil
}

// produce runs on the executor. The caller holds the frame until it returns; every staged batch holds it until it is
// given back.
func (s *Server) produce(ctx context.Context, a *answer) (reply, error) {
	r := &a.request
	req, err := parseProduce(s.shapes[keyProduce], r.version, r.body)
	if err != nil {
		return reply{}, err
	}
	if err := a.held.take(ctx, r.conn, int64(req.room)); err != nil {
		return reply{}, err
	}
	switch {
	case r.version < 3:
		req.refuse(codeUnsupportedVersion, "message formats before record batches are not supported")
	case req.acks < -1 || req.acks > 1:
		req.refuse(codeInvalidRequiredAcks, fmt.Sprintf("acks %d: accepted are -1, 0 and 1", req.acks))
	case req.transactional:
		req.refuse(codeTransactionalIDDenied, whyNoTransactions)
	default:
		if err := s.stage(ctx, r, req); err != nil {
			return reply{}, err
		}
	}
	return s.produced(r, req), nil
}

const whyNoTransactions = "this cluster does not serve transactions"

// refuse gives every partition the same code.
func (req *produceRequest) refuse(code errorCode, why string) {
	for i := range req.topics {
		for j := range req.topics[i].partitions {
			p := &req.topics[i].partitions[j]
			p.code, p.message = code, why
		}
	}
}

// staging is a request on its way through the produce path. ready is closed when all parts have their outputs.
type staging struct {
	parts []ingest.Part
	ptrs  []*ingest.Part
}

// What all batches of one request may decompress to, beside what batch bounds each to: a request of very many very small ones
// must not keep a processor busy for minutes.
const (
	decompressedFactor = 64
	decompressedSlack  = 64 << 20
)

// stage validates and hands on what is valid; the other partitions get their codes.
func (s *Server) stage(ctx context.Context, r *request, req *produceRequest) error {
	st, err := s.admit(ctx, r, req)
	if err != nil {
		return err
	}
	if len(st.ptrs) == 0 {
		return nil
	}
	ready := make(chan struct{})
	held := int32(len(st.ptrs))
	release := r.frame.release
	r.frame.hold(held)
	r.ready = ready
	staging, cancel := context.WithTimeout(ctx, s.patience(req))
	defer cancel()
	if err := s.producer.Stage(staging, st.ptrs, func() { close(ready) }); err != nil {
		for range held {
			release()
		}
		r.ready = nil
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		code := s.codeOf(err, codeRequestTimedOut)
		for i := range req.topics {
			for j := range req.topics[i].partitions {
				if p := &req.topics[i].partitions[j]; p.part != nil {
					if err := r.conn.bounced.note(req.topics[i].name, p.index, p.records); err != nil {
						return err
					}
					p.part, p.code, p.message = nil, code, err.Error()
				}
			}
		}
	}
	return nil
}

// admit looks the topics up and validates the batches. What it returns is valid; the other partitions have their codes. The
// validator goes back before anybody waits: its buffers are as large as what the batches decompress to.
func (s *Server) admit(ctx context.Context, r *request, req *produceRequest) (staging, error) {
	views, lagging := s.producedTopics(ctx, req)
	n := 0
	for i := range req.topics {
		for j := range req.topics[i].partitions {
			if len(req.topics[i].partitions[j].records) >= batch.HeaderSize { // nothing is made for what is no batch
				n++
			}
		}
	}
	st := staging{parts: make([]ingest.Part, 0, n), ptrs: make([]*ingest.Part, 0, n)}
	v := s.validators.Get().(*batch.Validator)
	defer s.validators.Put(v)
	release := r.frame.release
	left := int64(decompressedSlack + decompressedFactor*len(r.body)) // that may still come out of the request's batches
	now := time.Now().UnixMilli()
	for i := range req.topics {
		t, view := &req.topics[i], &views[i]
		var settings topicconfig.Settings
		var lim batch.Limits
		if view.partitions > 0 {
			settings = s.settings.settings(view)
			lim = limits(settings, now)
		}
		for j := range t.partitions {
			p := &t.partitions[j]
			if p.index < 0 || p.index >= view.partitions {
				switch {
				case lagging != nil:
					p.code, p.message = codeRequestTimedOut, "the metastore does not answer"
				case req.byID && view.partitions == 0:
					p.code = codeUnknownTopicID
				default:
					p.code = codeUnknownTopicOrPartition
				}
				if err := r.conn.bounced.note(t.name, p.index, p.records); err != nil {
					return staging{}, err
				}
				continue
			}
			lim.MaxDecompressedBytes = max(min(left, batch.DefaultMaxDecompressedBytes), 1)
			room := batch.DecompressRoom(p.records, lim)
			if room > 0 { // no more at a time than there are processors: the rest would only be in everybody's way
				room = s.decompress.clip(max(room, s.decompress.share()/int64(runtime.GOMAXPROCS(0))))
				if err := r.conn.take(ctx, s.decompress, r.conn.visitor, room); err != nil {
					return staging{}, context.Cause(ctx)
				}
			}
			header, verr := s.checkBatch(v, r.version, p, lim)
			s.decompress.give(r.conn.visitor, room)
			if len(p.records) > 0 {
				left -= v.Decompressed()
			}
			if verr != nil {
				continue
			}
			if r.conn.bounced.holds(t.name, p.index, header) {
				p.code, p.message = codeRequestTimedOut, "an earlier batch of this producer was turned away and has not come again"
				continue
			}
			st.parts = append(st.parts, ingest.Part{
				Topic: view.id, Partition: p.index, Records: p.records, Header: header,
				LogAppendTime: settings.LogAppendTime, Lock: lockOf(&settings), Release: release,
			})
			p.part = &st.parts[len(st.parts)-1]
			st.ptrs = append(st.ptrs, p.part)
		}
	}
	return st, nil
}

// producedTopics looks up the request's topics; a missing one is a zero view. The error says that missing is not proven.
func (s *Server) producedTopics(ctx context.Context, req *produceRequest) ([]topicView, error) {
	views := make([]topicView, len(req.topics))
	err := s.fresh(ctx, func(st *state.State) bool {
		complete := true
		for i := range req.topics {
			var t *state.Topic
			if req.byID {
				t = st.TopicByID(req.topics[i].id)
			} else {
				t = st.TopicByName(req.topics[i].name)
			}
			if t == nil {
				complete = false
				continue
			}
			views[i] = viewTopic(st, t)
			for j := range req.topics[i].partitions {
				if req.topics[i].partitions[j].index >= views[i].partitions {
					complete = false
				}
			}
		}
		return complete
	})
	return views, err
}

// lockOf is how the objects of a topic are protected.
func lockOf(t *topicconfig.Settings) ingest.Lock {
	if !t.Locked() {
		return ingest.Lock{}
	}
	mode := objstore.LockGovernance
	if t.LockMode == topicconfig.LockCompliance {
		mode = objstore.LockCompliance
	}
	return ingest.Lock{Mode: mode, Days: t.LockDays}
}

func limits(t topicconfig.Settings, now int64) batch.Limits {
	lim := batch.Limits{
		MaxBatchBytes: max(t.MaxMessageBytes, 1), MaxRecordBytes: t.MaxRecordBytes, Now: now, RequireKeys: t.Compact,
		TimestampBeforeMax: t.TimestampBeforeMax, TimestampAfterMax: t.TimestampAfterMax,
	}
	if t.LogAppendTime {
		lim.TimestampType = batch.LogAppendTime
	}
	return lim
}

// zstdVersion is the first Produce version that may carry zstd (KIP-110).
const zstdVersion = 7

var errNoBatch = fmt.Errorf("a partition without a record batch: %w", batch.ErrInvalidRecord)

// checkBatch validates a partition's batch and fills in its code where it is refused. A max timestamp that is not the records'
// is corrected in place, as Kafka does: everything that looks for a time later goes by the header.
func (s *Server) checkBatch(v *batch.Validator, version int16, p *producedPartition, lim batch.Limits) (batch.Header, error) {
	var header batch.Header
	var err error
	if len(p.records) == 0 {
		err = errNoBatch
	} else {
		header, err = v.Validate(p.records, lim)
	}
	switch {
	case err != nil:
		p.code, p.message = s.codeOf(err, codeRequestTimedOut), err.Error()
		p.refused = batch.RefusedRecords(err)
	case header.Transactional():
		p.code, p.message = codeTransactionalIDDenied, whyNoTransactions
		err = batch.ErrInvalidRecord
	case header.Codec() == batch.CodecZstd && version < zstdVersion:
		p.code, p.message = codeUnsupportedCompression, "zstd needs Produce version 7"
		err = batch.ErrUnsupportedCodec
	default:
		batch.StampMaxTimestamp(p.records, header.MaxTimestamp)
	}
	return header, err
}

// patience is how long the client waits for its answer.
func (s *Server) patience(req *produceRequest) time.Duration {
	return min(max(req.timeout, s.cfg.ProduceTimeoutMin), s.cfg.ProduceTimeoutMax)
}

// produced is the answer.
func (s *Server) produced(r *request, req *produceRequest) reply {
	a := reply{ready: r.ready, patience: s.patience(req)}
	a.gaveUp = func() {
		req.late = true
		s.cfg.Metrics.produceLate.Inc()
	}
	if req.acks == 0 {
		a.fault = func() error { return s.collect(req) }
		return a
	}
	version := r.version
	a.body = func(dst []byte) []byte {
		_ = s.collect(req)
		return appendProduced(dst, version, req)
	}
	return a
}

// collect takes the outcomes over into codes, counts them, and returns an error where one failed.
func (s *Server) collect(req *produceRequest) (first error) {
	for i := range req.topics {
		t := &req.topics[i]
		for j := range t.partitions {
			p := &t.partitions[j]
			late := p.part != nil && req.late
			switch {
			case late: // its outputs are not ours to look at
				p.part, p.code, p.message = nil, codeRequestTimedOut, "the outcome is not known yet: the bucket or the metastore is slow or out"
			case p.part != nil:
				switch {
				case p.part.Err != nil:
					p.code, p.message = s.codeOf(p.part.Err, codeRequestTimedOut), p.part.Err.Error()
				case p.part.Code != state.OK:
					var ok bool
					if p.code, ok = ofState(p.part.Code); !ok {
						s.bug("no Kafka error code for a batch's result", "code", p.part.Code)
					}
					if p.part.Code == state.UnknownTopic && req.byID { // deleted meanwhile
						p.code = codeUnknownTopicID
					}
					p.message = p.part.Code.String()
				default:
					s.cfg.Traffic.Produced(p.part.Topic, int64(p.part.Header.RecordCount), int64(len(p.records)))
				}
			}
			if p.code != codeNone {
				s.cfg.Metrics.failed(keyProduce, p.code)
				if first == nil && !late { // what is only late did not fail
					first = fmt.Errorf("%s-%d refused with code %d: %s", t.name, p.index, p.code, p.message)
				}
			}
		}
	}
	return first
}

func appendProduced(dst []byte, version int16, req *produceRequest) []byte {
	res := kmsg.ProduceResponse{Version: version, Topics: make([]kmsg.ProduceResponseTopic, 0, len(req.topics))}
	for i := range req.topics {
		t := &req.topics[i]
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.name, t.id
		rt.Partitions = make([]kmsg.ProduceResponseTopicPartition, 0, len(t.partitions))
		for j := range t.partitions {
			p := &t.partitions[j]
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.index, int16(p.code)
			rp.BaseOffset, rp.LogAppendTime, rp.LogStartOffset = -1, -1, -1
			switch {
			case p.code == codeNone && p.part != nil:
				rp.BaseOffset, rp.LogAppendTime, rp.LogStartOffset = p.part.BaseOffset, p.part.Timestamp, p.part.LogStartOffset
			case p.message != "":
				rp.ErrorMessage = &p.message
			}
			for _, r := range p.refused {
				e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
				e.RelativeOffset, e.ErrorMessage = int32(r.Index), &r.Reason
				rp.ErrorRecords = append(rp.ErrorRecords, e)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		res.Topics = append(res.Topics, rt)
	}
	return res.AppendTo(dst)
}
