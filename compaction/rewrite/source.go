package rewrite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

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

// Want is an object that is to be read.
type Want struct {
	ID   entry.ObjectID
	Size int64 // bytes
	// Blocks are those wanted of a merged object: what lies between the first and the last of them is read, by GETs of RunBytes.
	// nil: all of it, by one GET.
	Blocks []uint32
}

// StageAll reads objects into scratch space, Parallel at a time, and calls each in their order: with the footer, or with what kept the
// object from being read. It ends early where each returns false; what was read ahead by then is dropped.
// Errors that each is given: *InputError, ErrChanged, ErrUnavailable, duty.ErrScratchFull, ctx's.
func (s *Source) StageAll(ctx context.Context, wants []Want, each func(i int, footer *segment.Footer, err error) (more bool)) {
	type result struct {
		in  *input
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	results := make([]chan result, len(wants))
	started, done := 0, 0
	for more := true; more && done < len(wants); done++ {
		for ; started < len(wants) && started < done+s.env.cfg.Parallel; started++ {
			ch := make(chan result, 1)
			results[started] = ch
			if in := s.inputs[wants[started].ID]; in != nil && in.file != nil {
				ch <- result{in: in}
				continue
			}
			want := wants[started]
			wg.Go(func() {
				in, err := s.env.stage(ctx, want)
				ch <- result{in, err}
			})
		}
		r := <-results[done]
		if r.err != nil {
			more = each(done, nil, r.err)
			continue
		}
		if s.inputs[r.in.id] != r.in {
			s.Forget(r.in.id)
			s.inputs[r.in.id] = r.in
		}
		more = each(done, r.in.footer, nil)
	}
	cancel()
	wg.Wait()
	for ; done < started; done++ {
		if r := <-results[done]; r.err == nil && s.inputs[r.in.id] != r.in {
			_ = r.in.file.Close() // nobody wants it
		}
	}
}

// Stage is StageAll for one object.
func (s *Source) Stage(ctx context.Context, want Want) (footer *segment.Footer, err error) {
	s.StageAll(ctx, []Want{want}, func(_ int, f *segment.Footer, e error) bool {
		footer, err = f, e
		return true
	})
	return footer, err
}

// stage reads one object.
func (e *Env) stage(ctx context.Context, want Want) (*input, error) {
	if want.Blocks == nil || want.Size <= e.cfg.RunBytes {
		return e.stageWhole(ctx, want.ID, want.Size)
	}
	in, err := e.open(ctx, want.ID, want.Size)
	if err != nil {
		return nil, err
	}
	start, end := in.size, int64(0)
	for _, i := range want.Blocks {
		b, ok := in.footer.Block(int(i))
		if !ok {
			return nil, &InputError{Object: in.id, Err: fmt.Errorf("%w: no block %d", ErrCorrupt, i)}
		}
		last := b.Chunks[len(b.Chunks)-1]
		start, end = min(start, b.Chunks[0].Position), max(end, last.Position+last.StoredSize)
	}
	file, err := e.deps.Scratch.Create()
	if err != nil {
		return nil, err
	}
	for at := start; at < end; at += e.cfg.RunBytes {
		body, err := e.get(ctx, in.id, in.size, at, min(e.cfg.RunBytes, end-at))
		if err == nil {
			_, err = file.Write(body)
		}
		if err != nil {
			_ = file.Close() // the other error is the one that matters
			return nil, err
		}
	}
	in.file, in.start = file, start
	return in, nil
}

// stageWhole reads all of an object by one GET.
func (e *Env) stageWhole(ctx context.Context, id entry.ObjectID, size int64) (*input, error) {
	var footer *segment.Footer
	var body []byte
	for again := false; ; again = true { // what is damaged is read twice: most likely it was damaged on the way
		var err error
		if body, err = e.get(ctx, id, size, 0, size); err != nil {
			return nil, err
		}
		if footer, err = openBody(body); err == nil {
			break
		}
		if again || !errors.Is(err, segment.ErrCorrupt) {
			return nil, inputError(id, err)
		}
	}
	file, err := e.deps.Scratch.Create()
	if err != nil {
		return nil, err
	}
	if _, err := file.Write(body); err != nil {
		_ = file.Close() // the error of the write is the one that matters
		return nil, err
	}
	footer.ObjectID, footer.IntendedOps = nil, nil // would keep the body
	return &input{id: id, size: size, footer: footer, file: file}, nil
}

// openBody parses the footer of a whole object. Nothing is found by the header, which may be damaged.
func openBody(body []byte) (*segment.Footer, error) {
	t, err := segment.ParseTrailer(body, int64(len(body)))
	if err != nil {
		return nil, err
	}
	return segment.ParseFooter(t, body[t.FooterPosition:t.FooterPosition+t.FooterSize])
}

// inputError is an error of the segment's format: damage, or a newer firn's object.
func inputError(id entry.ObjectID, err error) error {
	if errors.Is(err, segment.ErrVersion) {
		return &InputError{Object: id, Err: err}
	}
	return &InputError{Object: id, Err: fmt.Errorf("%w: %w", ErrCorrupt, err)}
}

// Footer returns an object's footer. Errors as of StageAll.
func (s *Source) Footer(ctx context.Context, id entry.ObjectID, size int64) (*segment.Footer, error) {
	in, err := s.open(ctx, id, size)
	if err != nil {
		return nil, err
	}
	return in.footer, nil
}

// open returns an object that is to be read by runs, where it is not staged: a small one is, for one GET then does for all of it.
func (s *Source) open(ctx context.Context, id entry.ObjectID, size int64) (in *input, err error) {
	if in := s.inputs[id]; in != nil {
		return in, nil
	}
	if size <= s.env.cfg.RunBytes {
		in, err = s.env.stageWhole(ctx, id, size)
	}
	if size > s.env.cfg.RunBytes || errors.Is(err, duty.ErrScratchFull) {
		in, err = s.env.open(ctx, id, size)
	}
	if err != nil {
		return nil, err
	}
	s.inputs[id] = in
	return in, nil
}

// open reads an object's footer, by one or two GETs.
func (e *Env) open(ctx context.Context, id entry.ObjectID, size int64) (*input, error) {
	for again := false; ; again = true {
		footer, err := segment.ReadFooter(readerAt(func(b []byte, position int64) error {
			body, err := e.get(ctx, id, size, position, int64(len(b)))
			copy(b, body)
			return err
		}), size)
		var sorted *InputError
		switch {
		case err == nil:
			footer.ObjectID, footer.IntendedOps = nil, nil // would keep what was read
			return &input{id: id, size: size, footer: footer}, nil
		case errors.As(err, &sorted):
			return nil, err
		case errors.Is(err, segment.ErrVersion), again && errors.Is(err, segment.ErrCorrupt):
			return nil, inputError(id, err)
		case !errors.Is(err, segment.ErrCorrupt):
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
