package batch

import (
	"errors"
	"fmt"
)

// What a batch was refused for. Each maps to one Kafka error code, named beside it.
var (
	// ErrCorrupt: lengths or CRC do not hold; the bytes were damaged on the way. CORRUPT_MESSAGE (2), clients retry.
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrTruncated: the bytes end inside a batch. It is an ErrCorrupt too.
	ErrTruncated = fmt.Errorf("truncated: %w", ErrCorrupt)
	// ErrTooLarge: more bytes, records, or bytes once decompressed than allowed. MESSAGE_TOO_LARGE (10), on which
	// clients split the batch.
	ErrTooLarge = errors.New("record batch too large")
	// ErrInvalidRecord: intact bytes that break the format or a rule. INVALID_RECORD (87).
	ErrInvalidRecord = errors.New("invalid record")
	// ErrTimestamp: a timestamp out of bounds or of the wrong type. INVALID_TIMESTAMP (32).
	ErrTimestamp = errors.New("invalid timestamp")
	// ErrUnsupportedCodec: a codec this package does not know. UNSUPPORTED_COMPRESSION_TYPE (76).
	ErrUnsupportedCodec = errors.New("unsupported compression type")
	// ErrUnsupportedMagic: a message format other than 2. UNSUPPORTED_FOR_MESSAGE_FORMAT (43).
	ErrUnsupportedMagic = errors.New("unsupported message format")
)

// RecordError names the record for which a batch was refused, as Produce responses do.
type RecordError struct {
	Index  int    // position of the record in its batch, from 0
	Reason string // in words, without the index
	Err    error  // ErrInvalidRecord or ErrTimestamp
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("record %d: %s: %v", e.Index, e.Reason, e.Err)
}

// Unwrap makes errors.Is find the sentinel.
func (e *RecordError) Unwrap() error { return e.Err }
