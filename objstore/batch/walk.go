package batch

import "fmt"

// Walk calls fn for each record of a stored batch, control batches included, until fn returns an error, which Walk
// returns as it is. raw must be exactly one batch; its CRC is the caller's to check. A batch that went through key
// compaction may have gaps between offset deltas, and no records at all. Of lim only MaxDecompressedBytes counts: the
// batch was accepted under other limits, perhaps. The Record's slices are valid until fn returns.
// Errors: ErrTruncated, ErrUnsupportedMagic, ErrUnsupportedCodec, ErrCorrupt, ErrTooLarge, ErrInvalidRecord.
func (v *Validator) Walk(raw []byte, lim Limits, fn func(Record) error) error {
	lim = lim.withDefaults()
	h, err := ParseHeader(raw)
	if err != nil {
		return err
	}
	switch {
	case h.Size() > len(raw):
		return fmt.Errorf("batch of %d bytes in %d: %w", h.Size(), len(raw), ErrTruncated)
	case h.Size() < len(raw):
		return fmt.Errorf("%d bytes after the only batch: %w", len(raw)-h.Size(), ErrCorrupt)
	case h.RecordCount < 0 || h.LastOffsetDelta < 0:
		return fmt.Errorf("record count %d, last offset delta %d: %w", h.RecordCount, h.LastOffsetDelta, ErrInvalidRecord)
	case h.RecordCount == 0:
		return nil
	}
	defer v.release()
	if err := v.codecs.open(&v.stream, h.Codec(), raw[HeaderSize:], lim.MaxDecompressedBytes); err != nil {
		return err
	}
	last := int32(-1)
	for i := range h.RecordCount {
		why, err := v.next(h.BaseTimestamp, true)
		if err != nil {
			return err
		}
		r := v.record
		if why == "" && (r.OffsetDelta <= last || r.OffsetDelta > h.LastOffsetDelta) {
			why = "offset delta out of order"
		}
		if why != "" {
			return &RecordError{Index: int(i), Reason: why, Err: ErrInvalidRecord}
		}
		last = r.OffsetDelta
		if h.LogAppendTime() {
			r.Timestamp = h.MaxTimestamp
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return v.finish()
}

// Records is Walk for callers that read few batches: it makes a Validator of its own.
func Records(raw []byte, lim Limits, fn func(Record) error) error {
	return NewValidator().Walk(raw, lim, fn)
}
