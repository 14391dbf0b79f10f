package batch

import (
	"errors"
	"fmt"
)

// What a batch was refused for. Each maps to one Kafka error code, named beside it.
var (
	// ErrCorrupt: lengths or CRC do not hold; the bytes were damaged on the way. CORRUPT_MESSAGE (2), clients retry.
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrTruncated: the bytes end inside a batch. It is an ErrCorrupt too. In a produced batch INVALID_RECORD (87): the
	// request was whole, so the same bytes would come again.
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
	// ErrUnsupportedMagic: a message format other than 2. INVALID_RECORD (87).
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

// MaxRecordErrors is how many records of a batch are named at most. Clients fail the others as part of the same batch.
const MaxRecordErrors = 100

// RecordErrors names the records of a batch that are well formed and break a rule of the topic: all of them, up to
// MaxRecordErrors, so that a client knows which of its records to blame. Never empty.
type RecordErrors []*RecordError

func (e RecordErrors) Error() string {
	if len(e) == 1 {
		return e[0].Error()
	}
	return fmt.Sprintf("%v, and %d more records", e[0], len(e)-1)
}

// Unwrap is ErrTimestamp if that is what is wrong with any record, as Kafka has it, else ErrInvalidRecord.
func (e RecordErrors) Unwrap() error {
	for _, r := range e {
		if errors.Is(r, ErrTimestamp) {
			return r
		}
	}
	return e[0]
}

// RefusedRecords returns the records that err names.
func RefusedRecords(err error) []*RecordError {
	var list RecordErrors
	if errors.As(err, &list) {
		return list
	}
	var one *RecordError
	if errors.As(err, &one) {
		return []*RecordError{one}
	}
	return nil
}
