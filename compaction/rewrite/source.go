package rewrite

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/firnlog/firn/compaction/duty"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/objstore/segment"
)

// Source reads input objects. What was staged lies in scratch space and is read from there; the rest is read from the bucket by runs.
// It is used by one goroutine at a time, and closed when the work is done.
type Source struct {
	env    *Env
	inputs map[entry.ObjectID]*input
	run    []byte // scratch: of readers that read staged bytes
	raw    []byte // scratch: decompressed chunks
}

// input is an object that was opened.
type input struct {
	id     entry.ObjectID
	size   int64 // bytes
	footer *segment.Footer
	// file holds the bytes from start on; nil: nothing is staged.
	file  duty.File
	start int64
}

// NewSource returns a Source without objects.
func (e *Env) NewSource() *Source { return &Source{env: e, inputs: make(map[entry.ObjectID]*input)} }

// Close frees the scratch space.
func (s *Source) Close() {
	for id := range s.inputs {
		s.Forget(id)
	}
}

// Forget frees what is kept of an object.
func (s *Source) Forget(id entry.ObjectID) {
	if in := s.inputs[id]; in != nil {
		if in.file != nil {
			_ = in.file.Close() // nothing in it is wanted any more
		}
		delete(s.inputs, id)
	}
}

// StageWhole reads an object of level 0 into scratch space by one GET, unless it is there, and returns its footer.
// Errors: *InputError, ErrChanged, ErrUnavailable, duty.ErrScratchFull, ctx's.
func (s *Source) StageWhole(ctx context.Context, id entry.ObjectID, size int64) (*segment.Footer, error) {
	if in := s.inputs[id]; in != nil && in.file != nil && in.start == 0 {
		return in.footer, nil
	}
	s.Forget(id)
	var footer *segment.Footer
	var body []byte
	for again := false; ; again = true { // what is damaged is read twice: most likely it was damaged on the way
		var err error
		if body, err = s.env.get(ctx, id, size, 0, size); err != nil {
			return nil, err
		}
		if footer, err = openBody(body); err == nil {
			break
		}
		if again || !errors.Is(err, segment.ErrCorrupt) {
			return nil, inputError(id, err)
		}
	}
	file, err := s.env.deps.Scratch.Create()
	if err != nil {
		return nil, err
	}
	if _, err := file.Write(body); err != nil {
		_ = file.Close() // the error of the write is the one that matters
		return nil, err
	}
	footer.ObjectID, footer.IntendedOps = nil, nil // would keep the body
	s.inputs[id] = &input{id: id, size: size, footer: footer, file: file}
	return footer, nil
}

// openBody parses the footer of a whole object. Nothing is found by the header, which may be damaged.
func openBody(body []byte) (*segment.Footer, error) {
	t, err := segment.ParseTrailer(body, int64(len(body)))
	if err != nil {
		return nil, err
	}
	return segment.ParseFooter(t, body[t.FooterPosition:t.FooterPosition+t.FooterSize])
}

// inputError sorts an error of the segment's format: damage, or a newer firn's object.
func inputError(id entry.ObjectID, err error) error {
	if errors.Is(err, segment.ErrVersion) {
		return fmt.Errorf("%s: %w", id.Key(), err)
	}
	return &InputError{Object: id, Err: fmt.Errorf("%w: %w", ErrCorrupt, err)}
}

// Footer returns an object's footer, by one or two GETs where it was not opened before. Errors as of StageWhole.
func (s *Source) Footer(ctx context.Context, id entry.ObjectID, size int64) (*segment.Footer, error) {
	in, err := s.open(ctx, id, size)
	if err != nil {
		return nil, err
	}
	return in.footer, nil
}

func (s *Source) open(ctx context.Context, id entry.ObjectID, size int64) (*input, error) {
	if in := s.inputs[id]; in != nil {
		return in, nil
	}
	if size <= s.env.cfg.RunBytes { // one GET for all of it, instead of several
		if _, err := s.StageWhole(ctx, id, size); err != nil {
			return nil, err
		}
		return s.inputs[id], nil
	}
	for again := false; ; again = true {
		footer, err := segment.ReadFooter(readerAt(func(b []byte, position int64) error {
			body, err := s.env.get(ctx, id, size, position, int64(len(b)))
			copy(b, body)
			return err
		}), size)
		if err == nil {
			footer.ObjectID, footer.IntendedOps = nil, nil
			in := &input{id: id, size: size, footer: footer}
			s.inputs[id] = in
			return in, nil
		}
		if errors.Is(err, segment.ErrVersion) || again && errors.Is(err, segment.ErrCorrupt) {
			return nil, inputError(id, err)
		}
		if !errors.Is(err, segment.ErrCorrupt) {
			return nil, err
		}
	}
}

type readerAt func(b []byte, position int64) error

func (r readerAt) ReadAt(b []byte, position int64) (int, error) {
	if err := r(b, position); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Stage reads what lies between the first and the last of the given blocks of a merged object into scratch space, by GETs of RunBytes:
// worth it where several blocks are wanted, which then share the GETs. Errors as of StageWhole.
func (s *Source) Stage(ctx context.Context, id entry.ObjectID, size int64, blocks ...uint32) error {
	in, err := s.open(ctx, id, size)
	if err != nil || in.file != nil {
		return err
	}
	start, end := in.size, int64(0)
	for _, i := range blocks {
		b, ok := in.footer.Block(int(i))
		if !ok {
			return &InputError{Object: id, Err: fmt.Errorf("%w: no block %d", ErrCorrupt, i)}
		}
		last := b.Chunks[len(b.Chunks)-1]
		start, end = min(start, b.Chunks[0].Position), max(end, last.Position+last.StoredSize)
	}
	file, err := s.env.deps.Scratch.Create()
	if err != nil {
		return err
	}
	for at := start; at < end; at += s.env.cfg.RunBytes {
		body, err := s.env.get(ctx, id, size, at, min(s.env.cfg.RunBytes, end-at))
		if err == nil {
			_, err = file.Write(body)
		}
		if err != nil {
			_ = file.Close() // the other error is the one that matters
			return err
		}
	}
	in.file, in.start = file, start
	return nil
}

// read returns bytes of the object that the caller may change until the next read; fresh: from the bucket, whatever is staged.
func (s *Source) read(ctx context.Context, in *input, position, size int64, fresh bool) ([]byte, error) {
	if in.file == nil || fresh || position < in.start || position+size > in.start+in.file.Size() {
		return s.env.get(ctx, in.id, in.size, position, size)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if int64(cap(s.run)) < size {
		s.run = make([]byte, size)
	}
	b := s.run[:size]
	if n, err := in.file.ReadAt(b, position-in.start); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("scratch file of %s: %w", in.id.Key(), err)
	}
	return b, nil
}

// Input is a partition whose rows are to be read.
type Input struct {
	Topic     entry.UUID
	Partition int32
	// Epochs are the partition's leader epochs (state.Partition.Epochs), for batches that do not carry theirs yet.
	Epochs []state.EpochStart
	// LogStart: batches that end at or below it are left out.
	LogStart int64
}
