package inspect

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/objstore/batch"
	"github.com/firnlog/firn/objstore/segment"
)

// SegmentOptions say how deep to go. Damage is looked for everywhere in any case.
type SegmentOptions struct {
	Batches bool // print record batches
	Records bool // print records, and batches
	// ObjectKey is the key that a bucket gave the object under; "" where it is not known.
	ObjectKey string
}

// Segment is the object as a whole.
type Segment struct {
	Type           string `json:"type"`
	Name           string `json:"name"`
	Size           int64  `json:"size"`
	Version        string `json:"version"`
	ObjectID       string `json:"object_id"`     // hex, as the footer has it
	Key            string `json:"key,omitempty"` // the key that the object id stands for
	FooterPosition int64  `json:"footer_position"`
	FooterSize     int64  `json:"footer_size"`
	FooterCRC      string `json:"footer_crc32c"`
	Blocks         int    `json:"blocks"`
	Chunks         int    `json:"chunks"`
	Batches        int    `json:"batches"`
	Offsets        int64  `json:"offsets"`
	RawSize        int64  `json:"raw_size"`
	StoredSize     int64  `json:"stored_size"`
	IntendedOps    int    `json:"intended_ops"`
}

// SegmentBlock is one partition's part of it.
type SegmentBlock struct {
	Type         string `json:"type"`
	Block        int    `json:"block"`
	TopicID      string `json:"topic_id"`
	Partition    int32  `json:"partition"`
	Position     int64  `json:"position"`
	StoredSize   int64  `json:"stored_size"`
	RawSize      int64  `json:"raw_size"`
	Base         *int64 `json:"base_offset,omitempty"` // of a merged object
	Offsets      int64  `json:"offsets"`
	Batches      int    `json:"batches"`
	MaxTimestamp int64  `json:"max_timestamp_ms"`
	Chunks       int    `json:"chunks"`
}

// SegmentChunk is one stored unit of a block. CRCOK is about the stored bytes; Sound covers the checksums and counts of the
// batches in them as well.
type SegmentChunk struct {
	Type         string `json:"type"`
	Block        int    `json:"block"`
	Chunk        int    `json:"chunk"`
	Position     int64  `json:"position"`
	StoredSize   int64  `json:"stored_size"`
	RawPosition  int64  `json:"raw_position"`
	RawSize      int64  `json:"raw_size"`
	BaseDelta    int64  `json:"base_offset_delta"`
	Base         *int64 `json:"base_offset,omitempty"` // of a merged object
	Offsets      int64  `json:"offsets"`
	Batches      int    `json:"batches"`
	MaxTimestamp int64  `json:"max_timestamp_ms"`
	Codec        string `json:"codec"`
	CRC          string `json:"crc32c"`
	CRCOK        bool   `json:"crc32c_ok"`
	Sound        bool   `json:"sound"`
}

// SegmentBatch is one record batch. An object of level 0 does not know its offsets: BaseDelta counts from the first offset of
// the block, which the metastore gave when the object was committed. A merged object does, and offsets may be missing in it.
type SegmentBatch struct {
	Type          string `json:"type"`
	Block         int    `json:"block"`
	Chunk         int    `json:"chunk"`
	Batch         int    `json:"batch"`        // in the chunk
	RawPosition   int64  `json:"raw_position"` // in the block
	Size          int    `json:"size"`
	BaseDelta     int64  `json:"base_offset_delta"`
	Base          *int64 `json:"base_offset,omitempty"`  // of a merged object
	LeaderEpoch   *int32 `json:"leader_epoch,omitempty"` // of a merged object
	Offsets       int64  `json:"offsets"`
	Records       int32  `json:"records"`
	Codec         string `json:"codec"`
	Attributes    int16  `json:"attributes"`
	BaseTimestamp int64  `json:"base_timestamp_ms"`
	DeleteHorizon *int64 `json:"delete_horizon_ms,omitempty"` // of tombstones; where key compaction set it, it is the base timestamp
	MaxTimestamp  int64  `json:"max_timestamp_ms"`
	ProducerID    int64  `json:"producer_id"`
	ProducerEpoch int16  `json:"producer_epoch"`
	BaseSequence  int32  `json:"base_sequence"`
	CRC           string `json:"crc32c"`
	Sound         bool   `json:"sound"`
}

// SegmentRecord is one record.
type SegmentRecord struct {
	Type      string          `json:"type"`
	Block     int             `json:"block"`
	Chunk     int             `json:"chunk"`
	Batch     int             `json:"batch"`
	Delta     int64           `json:"offset_delta"`     // from the first offset of the block
	Offset    *int64          `json:"offset,omitempty"` // of a merged object
	Timestamp int64           `json:"timestamp_ms"`
	Key       *byteText       `json:"key"`
	Value     *byteText       `json:"value"`
	Headers   []SegmentHeader `json:"headers,omitempty"`
}

// SegmentHeader is a record's header.
type SegmentHeader struct {
	Key   *byteText `json:"key"`
	Value *byteText `json:"value"`
}

// IntendedOp is an op of the footer: what the writer meant to commit.
type IntendedOp struct {
	Type string `json:"type"`
	*Op
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ReadSegment prints a segment object and checks all of it: header, trailer, footer, the checksum of every chunk and of every
// batch in it, and the table against what it describes. It holds the footer and one chunk at a time.
func ReadSegment(in *Input, opts SegmentOptions, out *Out) error {
	if in.Size < segment.HeaderSize+segment.TrailerSize {
		return in.wrong("segment")
	}
	s := &segmentReader{in: in, out: out, opts: opts}
	header, tail := make([]byte, segment.HeaderSize), make([]byte, segment.TrailerSize)
	if err := errors.Join(in.fill(header, 0), in.fill(tail, in.Size-segment.TrailerSize)); err != nil {
		return err
	}
	headErr := segment.ParseHeader(header)
	t, tailErr := segment.ParseTrailer(tail, in.Size)
	for _, err := range []error{headErr, tailErr} {
		if errors.Is(err, segment.ErrVersion) {
			return fmt.Errorf("%w %s: %w; run a newer firn", ErrUnreadable, in.Name, err)
		}
	}
	if string(header[:8]) != "FIRNSEG\n" && string(tail[24:]) != "FIRNSEG\n" {
		return in.wrong("segment")
	}
	if headErr != nil {
		if err := s.damage("header", 0, segment.HeaderSize, reason(headErr, "header")); err != nil {
			return err
		}
	}
	if tailErr != nil {
		if err := s.damage("trailer", in.Size-segment.TrailerSize, segment.TrailerSize, reason(tailErr, "trailer")); err != nil {
			return err
		}
		var ok bool
		if t, ok = guessTrailer(tail, in.Size); !ok {
			if err := out.note("the trailer does not say where the footer is, and without the footer no chunk can be found"); err != nil {
				return err
			}
			return out.end("segment", in.Name)
		}
	}
	if err := s.footer(t, tailErr == nil); err != nil {
		return err
	}
	return out.end("segment", in.Name)
}

// reason is an error of package segment without what the part before it says, and without its class.
func reason(err error, part string) string {
	return strings.TrimSuffix(strings.TrimPrefix(err.Error(), part+": "), ": "+segment.ErrCorrupt.Error())
}

// guessTrailer reads a damaged trailer, where its fields agree with the size of the object.
func guessTrailer(tail []byte, size int64) (segment.Trailer, bool) {
	t := segment.Trailer{
		FooterSize: int64(binary.BigEndian.Uint32(tail[8:])), FooterCRC: binary.BigEndian.Uint32(tail[12:]),
		Major: segment.MajorVersion, Minor: binary.BigEndian.Uint16(tail[18:]),
	}
	t.FooterPosition = size - segment.TrailerSize - t.FooterSize
	return t, t.FooterSize <= segment.MaxFooterSize && t.FooterPosition >= segment.HeaderSize &&
		binary.BigEndian.Uint64(tail) == uint64(t.FooterPosition)
}

type segmentReader struct {
	in   *Input
	out  *Out
	opts SegmentOptions
	// Of one chunk; reused for the next.
	stored, raw []byte
}

func (s *segmentReader) damage(part string, position, size int64, problem string) error {
	return s.out.put(&Damage{Type: "damage", Name: s.in.Name, Part: part, Position: position, Size: size, Problem: problem})
}

func (s *segmentReader) chunkDamage(block, chunk int, part string, position, size int64, problem, want, got string) error {
	return s.out.put(&Damage{Type: "damage", Name: s.in.Name, Part: part, Block: &block, Chunk: &chunk, Position: position, Size: size,
		Problem: problem, Want: want, Got: got})
}

// footer reads the footer, then what it describes. A footer whose checksum fails is still tried: where its table fits the
// object it says where the chunks are, and their own checksums say whether that is true.
func (s *segmentReader) footer(t segment.Trailer, trailerHolds bool) error {
	b := make([]byte, t.FooterSize)
	if err := s.in.fill(b, t.FooterPosition); err != nil {
		return err
	}
	f, err := segment.ParseFooter(t, b)
	if err != nil {
		d := &Damage{Type: "damage", Name: s.in.Name, Part: "footer", Position: t.FooterPosition, Size: t.FooterSize, Problem: reason(err, "footer")}
		if got := crc32.Checksum(b, castagnoli); got != t.FooterCRC {
			d.Problem, d.Want, d.Got = "CRC32C differs", crcText(t.FooterCRC), crcText(got)
			t.FooterCRC = got
			f, err = segment.ParseFooter(t, b)
		}
		var outErr error
		if trailerHolds {
			outErr = s.out.put(d)
		} else { // the trailer is named already, and this is the trailer's word
			outErr = s.out.note("by the damaged trailer the footer is damaged: %s", d.words())
		}
		if outErr != nil {
			return outErr
		}
		if err != nil {
			return s.out.note("the footer cannot be read, and without it no chunk can be found: %s", reason(err, "footer"))
		}
		if err := s.out.note("the footer's table fits the object: what follows is read by it, and the checksums of chunks and batches are its own judge"); err != nil {
			return err
		}
	}
	return s.contents(t, f)
}

func (s *segmentReader) contents(t segment.Trailer, f *segment.Footer) error {
	v := &Segment{
		Type: "segment", Name: s.in.Name, Size: s.in.Size, Version: fmt.Sprintf("%d.%d", t.Major, t.Minor), ObjectID: hex.EncodeToString(f.ObjectID),
		FooterPosition: t.FooterPosition, FooterSize: t.FooterSize, FooterCRC: crcText(t.FooterCRC), Blocks: len(f.Blocks),
	}
	for i := range f.Blocks {
		b := &f.Blocks[i]
		v.Chunks += len(b.Chunks)
		v.Batches += b.Batches
		v.Offsets += b.Span
		v.RawSize += b.RawSize
		for _, c := range b.Chunks {
			v.StoredSize += c.StoredSize
		}
	}
	id, known := objectID(f.ObjectID)
	if known {
		v.Key = id.Key()
	}
	ops, opsErr := ingest.ParseIntended(f.IntendedOps, uint64(s.in.Size))
	v.IntendedOps = len(ops)
	if err := s.out.put(v); err != nil {
		return err
	}
	if want := s.opts.ObjectKey; known && want != "" && v.Key != want {
		if _, err := entry.ParseObjectKey(want); err == nil {
			if err := s.damage("object id", t.FooterPosition, 0, fmt.Sprintf("the object under this key is %s", v.Key)); err != nil {
				return err
			}
		}
	}
	if opsErr != nil && known && !id.Merged() { // of another writer than the ingest path they are opaque
		if err := s.damage("intended ops", t.FooterPosition, 0, opsErr.Error()); err != nil {
			return err
		}
	}
	for _, op := range ops {
		if err := s.out.put(&IntendedOp{Type: "intended_op", Op: opView(op, func(entry.UUID) string { return "" })}); err != nil {
			return err
		}
	}
	for i := range f.Blocks {
		if err := s.block(&f.Blocks[i]); err != nil {
			return err
		}
	}
	return nil
}

// objectID reads an id as agents and compaction write it.
func objectID(b []byte) (id entry.ObjectID, ok bool) {
	id, err := entry.ParseObjectID(b)
	return id, err == nil
}

func (s *segmentReader) block(b *segment.Block) error {
	v := &SegmentBlock{
		Type: "block", Block: b.Index, TopicID: hex.EncodeToString(b.Topic[:]), Partition: b.Partition, Position: b.Chunks[0].Position,
		RawSize: b.RawSize, Base: known(b.BaseOffset, 0), Offsets: b.Span, Batches: b.Batches, MaxTimestamp: b.MaxTimestamp, Chunks: len(b.Chunks),
	}
	for _, c := range b.Chunks {
		v.StoredSize += c.StoredSize
	}
	if err := s.out.put(v); err != nil {
		return err
	}
	for i := range b.Chunks {
		if err := s.chunk(b.Index, i, b.Chunks[i], b.BaseOffset); err != nil {
			return err
		}
	}
	return nil
}

// known is an offset of a block that starts at base, nil where the object does not tell that.
func known(base, delta int64) *int64 {
	if base == segment.NoOffset {
		return nil
	}
	offset := base + delta
	return &offset
}

// chunk prints a chunk of a block that starts at base, or at NoOffset.
func (s *segmentReader) chunk(block, chunk int, c segment.Chunk, base int64) error {
	crc, err := s.checksum(c)
	if err != nil {
		return err
	}
	damaged := s.out.damage
	if crc != c.CRC {
		err = s.chunkDamage(block, chunk, "chunk", c.Position, c.StoredSize, "CRC32C of the stored bytes differs", crcText(c.CRC), crcText(crc))
		if err != nil {
			return err
		}
	}
	// The chunk's line goes before what is in it, and so its verdict is taken first.
	found := &findings{}
	raw, err := s.rawOf(c, crc)
	if err != nil {
		if crc == c.CRC {
			if err := s.chunkDamage(block, chunk, "chunk", c.Position, c.StoredSize, err.Error(), "", ""); err != nil {
				return err
			}
		}
	} else if err := found.walk(block, chunk, c, base, raw); err != nil {
		return err
	}
	v := &SegmentChunk{
		Type: "chunk", Block: block, Chunk: chunk, Position: c.Position, StoredSize: c.StoredSize, RawPosition: c.RawPosition, RawSize: c.RawSize,
		BaseDelta: c.BaseDelta, Base: known(base, c.BaseDelta), Offsets: c.Span, Batches: c.Batches, MaxTimestamp: c.MaxTimestamp, Codec: c.Codec.String(), CRC: crcText(c.CRC),
		CRCOK: crc == c.CRC,
		Sound: s.out.damage == damaged && len(found.damage) == 0,
	}
	if err := s.out.put(v); err != nil {
		return err
	}
	for _, d := range found.damage {
		d.Name = s.in.Name
		if err := s.out.put(d); err != nil {
			return err
		}
	}
	if !s.opts.Batches && !s.opts.Records {
		return nil
	}
	for _, b := range found.batches {
		if err := s.out.put(b); err != nil {
			return err
		}
		if s.opts.Records {
			if err := s.records(b, raw[b.RawPosition-c.RawPosition:][:b.Size]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checksum reads the stored bytes of a chunk through a small buffer: the table may claim any size.
func (s *segmentReader) checksum(c segment.Chunk) (uint32, error) {
	crc := crc32.New(castagnoli)
	n, err := io.Copy(crc, io.NewSectionReader(s.in, c.Position, c.StoredSize))
	if err == nil && n < c.StoredSize {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, fmt.Errorf("read %s at position %d: %w", s.in.Name, c.Position+n, err)
	}
	return crc.Sum32(), nil
}

// rawOf returns the raw bytes of a chunk, also of one whose checksum fails and that is not compressed: the checksums of its
// batches then say which of them are damaged.
func (s *segmentReader) rawOf(c segment.Chunk, crc uint32) ([]byte, error) {
	if crc != c.CRC && c.Codec != segment.CodecNone {
		return nil, fmt.Errorf("compressed and damaged")
	}
	s.stored = slices.Grow(s.stored[:0], int(c.StoredSize))[:c.StoredSize]
	if err := s.in.fill(s.stored, c.Position); err != nil {
		return nil, err
	}
	c.CRC = crc
	raw, err := segment.ReadChunk(s.stored, c, s.raw)
	if err == nil && c.Codec != segment.CodecNone {
		s.raw = raw
	}
	return raw, err
}

// findings are the batches of a chunk.
type findings struct {
	batches []*SegmentBatch
	damage  []*Damage
}

// walk splits the raw bytes of a chunk into batches and holds them against the table.
func (f *findings) walk(block, chunk int, c segment.Chunk, base int64, raw []byte) error {
	bad := func(at, size int64, problem, want, got string) {
		position := c.Position
		if c.Codec == segment.CodecNone {
			position += at
		} else {
			problem += fmt.Sprintf(" (raw position %d of a compressed chunk)", c.RawPosition+at)
		}
		f.damage = append(f.damage, &Damage{Type: "damage", Part: "record batch", Block: &block, Chunk: &chunk, Position: position, Size: size,
			Problem: problem, Want: want, Got: got})
	}
	delta := c.BaseDelta
	split := batch.Split(raw)
	for split.Next() {
		h, b := split.Header(), split.Raw()
		at := int64(split.Position() - len(b))
		if base != segment.NoOffset { // then batches tell where they are, and offsets may be missing before them
			from := h.BaseOffset - base
			if first := len(f.batches) == 0; first && from != delta || from < delta || from+h.Span() > c.BaseDelta+c.Span {
				bad(at, int64(len(b)), "the batch's offsets are not where the table has them", fmt.Sprintf("from %d, before %d", base+delta, base+c.BaseDelta+c.Span),
					fmt.Sprintf("%d to %d", h.BaseOffset, h.BaseOffset+h.Span()-1))
			}
			delta = from
		}
		v := &SegmentBatch{
			Type: "batch", Block: block, Chunk: chunk, Batch: len(f.batches), RawPosition: c.RawPosition + at, Size: len(b), BaseDelta: delta,
			Offsets: h.Span(), Records: h.RecordCount, Codec: h.Codec().String(), Attributes: h.Attributes, BaseTimestamp: h.BaseTimestamp,
			MaxTimestamp: h.MaxTimestamp, ProducerID: h.ProducerID, ProducerEpoch: h.ProducerEpoch, BaseSequence: h.BaseSequence, CRC: crcText(h.CRC), Sound: true,
		}
		if horizon, ok := h.DeleteHorizon(); ok {
			v.DeleteHorizon = &horizon
		}
		if base != segment.NoOffset {
			v.Base, v.LeaderEpoch = &h.BaseOffset, &h.LeaderEpoch
		}
		if err := batch.VerifyCRC(b); err != nil {
			v.Sound = false
			bad(at, int64(len(b)), "CRC32C of the batch differs", crcText(h.CRC), crcText(crc32.Checksum(b[21:], castagnoli)))
		}
		delta += h.Span()
		f.batches = append(f.batches, v)
	}
	if err := split.Err(); err != nil {
		at := int64(split.Position())
		bad(at, int64(len(raw))-at, err.Error(), "", "")
		return nil
	}
	counted := base != segment.NoOffset || delta == c.BaseDelta+c.Span
	if len(f.damage) == 0 && (len(f.batches) != c.Batches || !counted) {
		bad(0, c.RawSize, "the table counts other batches than the chunk holds", fmt.Sprintf("%d of %d offsets", c.Batches, c.Span),
			fmt.Sprintf("%d of %d offsets", len(f.batches), delta-c.BaseDelta))
	}
	return nil
}

func (s *segmentReader) records(b *SegmentBatch, raw []byte) error {
	if !b.Sound {
		return nil
	}
	var outErr error
	err := batch.Records(raw, batch.Limits{}, func(r batch.Record) error {
		v := &SegmentRecord{Type: "record", Block: b.Block, Chunk: b.Chunk, Batch: b.Batch, Delta: b.BaseDelta + int64(r.OffsetDelta),
			Timestamp: r.Timestamp, Key: byteTextOf(r.Key), Value: byteTextOf(r.Value)}
		if b.Base != nil {
			v.Offset = known(*b.Base, int64(r.OffsetDelta))
		}
		for key, value := range r.Headers.All() {
			v.Headers = append(v.Headers, SegmentHeader{Key: byteTextOf(key), Value: byteTextOf(value)})
		}
		outErr = s.out.put(v)
		return outErr
	})
	if outErr != nil {
		return outErr
	}
	if err != nil {
		return s.chunkDamage(b.Block, b.Chunk, fmt.Sprintf("records of batch %d", b.Batch), 0, 0, err.Error(), "", "")
	}
	return nil
}

func (v *Segment) text() string {
	s := fmt.Sprintf("segment  %s: %d bytes, version %s, %d %s, %d %s, %d %s, %d offsets, %d raw bytes stored in %d",
		v.Name, v.Size, v.Version, v.Blocks, plural(v.Blocks, "block"), v.Chunks, plural(v.Chunks, "chunk"), v.Batches, batches(v.Batches),
		v.Offsets, v.RawSize, v.StoredSize)
	id := v.ObjectID
	if v.Key != "" {
		id = v.Key
	}
	s += fmt.Sprintf("\nid       %s", id)
	s += fmt.Sprintf("\nfooter   %d bytes at %d, CRC32C %s, %d intended %s", v.FooterSize, v.FooterPosition, v.FooterCRC, v.IntendedOps, plural(v.IntendedOps, "op"))
	return s
}

func (v *SegmentBlock) text() string {
	offsets := fmt.Sprintf("%d offsets", v.Offsets)
	if v.Base != nil {
		offsets = "offsets " + span(v.Base, 0, v.Offsets)
	}
	return fmt.Sprintf("block %-3d topic %s, partition %d: %d bytes at %d, %d raw, %s, %d %s, %d %s, max timestamp %s", v.Block, v.TopicID,
		v.Partition, v.StoredSize, v.Position, v.RawSize, offsets, v.Batches, batches(v.Batches), v.Chunks, plural(v.Chunks, "chunk"), moment(v.MaxTimestamp))
}

func (v *SegmentChunk) text() string {
	verdict, crc := "sound", "holds"
	if !v.Sound {
		verdict = "DAMAGED"
	}
	if !v.CRCOK {
		crc = "differs"
	}
	return fmt.Sprintf("  chunk %d: %s, %d bytes at %d, CRC32C %s %s, codec %s, %d raw bytes from %d, offsets %s, %d %s, max timestamp %s",
		v.Chunk, verdict, v.StoredSize, v.Position, v.CRC, crc, v.Codec, v.RawSize, v.RawPosition, span(v.Base, v.BaseDelta, v.Offsets),
		v.Batches, batches(v.Batches), moment(v.MaxTimestamp))
}

func (v *SegmentBatch) text() string {
	s := fmt.Sprintf("    batch %d: %d bytes at raw %d, offsets %s, %d records, codec %s, %s to %s, CRC32C %s", v.Batch, v.Size, v.RawPosition,
		span(v.Base, v.BaseDelta, v.Offsets), v.Records, v.Codec, moment(v.BaseTimestamp), moment(v.MaxTimestamp), v.CRC)
	if v.DeleteHorizon != nil { // what stands in the base timestamp's place is no time of the batch
		s = fmt.Sprintf("    batch %d: %d bytes at raw %d, offsets %s, %d records, codec %s, up to %s, tombstones may go at %s, CRC32C %s", v.Batch, v.Size, v.RawPosition,
			span(v.Base, v.BaseDelta, v.Offsets), v.Records, v.Codec, moment(v.MaxTimestamp), moment(*v.DeleteHorizon), v.CRC)
	}
	if v.ProducerID >= 0 {
		s += fmt.Sprintf(", producer %d epoch %d from sequence %d", v.ProducerID, v.ProducerEpoch, v.BaseSequence)
	}
	if v.LeaderEpoch != nil {
		s += fmt.Sprintf(", leader epoch %d", *v.LeaderEpoch)
	}
	if !v.Sound {
		s += ", DAMAGED"
	}
	return s
}

// span is offsets as people see them: from the start of the block where the object knows no better.
func span(base *int64, delta, offsets int64) string {
	if base != nil {
		return fmt.Sprintf("%d to %d", *base, *base+offsets-1)
	}
	return fmt.Sprintf("+%d to +%d", delta, delta+offsets-1)
}

func (v *SegmentRecord) text() string {
	at := fmt.Sprintf("+%d", v.Delta)
	if v.Offset != nil {
		at = fmt.Sprint(*v.Offset)
	}
	s := fmt.Sprintf("      %s %s %s %s", at, moment(v.Timestamp), v.Key, v.Value)
	for _, h := range v.Headers {
		s += fmt.Sprintf(" %s=%s", h.Key, h.Value)
	}
	return s
}

func (v *IntendedOp) text() string { return "intended " + v.line() }
