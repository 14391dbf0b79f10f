package kafka

import (
	"context"
	"errors"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore/batch"
)

// errorCode is a Kafka error code.
type errorCode int16

// The codes in use, as the protocol names them.
const (
	codeNone                    errorCode = 0
	codeUnknownServerError      errorCode = -1
	codeOffsetOutOfRange        errorCode = 1
	codeCorruptMessage          errorCode = 2
	codeUnknownTopicOrPartition errorCode = 3
	codeLeaderNotAvailable      errorCode = 5
	codeRequestTimedOut         errorCode = 7
	codeMessageTooLarge         errorCode = 10
	codeOffsetMetadataTooLarge  errorCode = 12
	codeCoordinatorLoading      errorCode = 14
	codeCoordinatorNotAvailable errorCode = 15
	codeNotCoordinator          errorCode = 16
	codeInvalidTopic            errorCode = 17
	codeInvalidRequiredAcks     errorCode = 21
	codeIllegalGeneration       errorCode = 22
	codeInvalidTimestamp        errorCode = 32
	codeIllegalSaslState        errorCode = 34
	codeUnsupportedVersion      errorCode = 35
	codeTopicAlreadyExists      errorCode = 36
	codeInvalidPartitions       errorCode = 37
	codeInvalidReplication      errorCode = 38
	codeInvalidAssignment       errorCode = 39
	codeInvalidConfig           errorCode = 40
	codeInvalidRequest          errorCode = 42
	codePolicyViolation         errorCode = 44
	codeOutOfOrderSequence      errorCode = 45
	codeDuplicateSequence       errorCode = 46
	codeInvalidProducerEpoch    errorCode = 47
	codeInvalidTxnState         errorCode = 48
	codeTransactionalIDDenied   errorCode = 53
	codeStorageError            errorCode = 56
	codeNonEmptyGroup           errorCode = 68
	codeGroupIDNotFound         errorCode = 69
	codeFetchSessionNotFound    errorCode = 70
	codeInvalidFetchEpoch       errorCode = 71
	codeFencedLeaderEpoch       errorCode = 74
	codeUnknownLeaderEpoch      errorCode = 75
	codeUnsupportedCompression  errorCode = 76
	codeOffsetNotAvailable      errorCode = 78
	codeInvalidRecord           errorCode = 87
	codeUnknownTopicID          errorCode = 100
	codeFetchSessionTopicID     errorCode = 106
	codeUnsupportedEndpoint     errorCode = 115
)

// ofState maps what the state machine said. A code that no request can be answered with (it concerns whole entries, or
// ops that agents propose for themselves) is UNKNOWN_SERVER_ERROR; ok is false for a code this build does not know.
func ofState(c state.Code) (code errorCode, ok bool) {
	switch c {
	case state.OK, state.Duplicate: // of a duplicate, the answer carries the original's offset
		return codeNone, true
	case state.DuplicateSequence:
		return codeDuplicateSequence, true
	case state.OutOfOrderSequence:
		return codeOutOfOrderSequence, true
	case state.ProducerFenced:
		return codeInvalidProducerEpoch, true
	case state.TransactionState:
		return codeInvalidTxnState, true
	case state.UnknownTopic, state.UnknownPartition:
		return codeUnknownTopicOrPartition, true
	case state.TopicExists:
		return codeTopicAlreadyExists, true
	case state.InvalidTopic:
		return codeInvalidTopic, true
	case state.InvalidPartitions:
		return codeInvalidPartitions, true
	case state.InvalidAssignment:
		return codeInvalidAssignment, true
	case state.InvalidConfig:
		return codeInvalidConfig, true
	case state.InvalidRequest:
		return codeInvalidRequest, true
	case state.OffsetOutOfRange:
		return codeOffsetOutOfRange, true
	case state.LimitExceeded:
		return codePolicyViolation, true
	case state.FeatureLevelUnsupported, state.FeatureLevelNotReached:
		return codeUnsupportedVersion, true
	case state.StaleCoordinator:
		return codeNotCoordinator, true
	case state.StaleGeneration:
		return codeIllegalGeneration, true
	case state.UnknownGroup:
		return codeGroupIDNotFound, true
	case state.GroupNotEmpty:
		return codeNonEmptyGroup, true
	case state.NotJoined: // this agent is about to join anew
		return codeRequestTimedOut, true
	case state.ConditionFailed, state.OffsetOverflow, state.StaleCollectionEpoch, state.InvalidObject, state.UnknownObject,
		state.Conflict, state.AlreadyJoined, state.SeqRepeated, state.SeqGap:
		return codeUnknownServerError, true
	}
	return codeUnknownServerError, false
}

// ofError maps errors of the rooms below. later is the code by which clients of the API at hand try again: what is not
// known to have failed for good gets it. ok is false for an error that has no place here: a bug.
func ofError(err error, later errorCode) (code errorCode, ok bool) {
	for _, m := range [...]struct {
		is   error
		code errorCode
	}{
		{fetch.ErrOffsetOutOfRange, codeOffsetOutOfRange},
		{fetch.ErrUnknownTopic, codeUnknownTopicOrPartition},
		{fetch.ErrStorage, codeStorageError},
		{fetch.ErrCorrupt, codeCorruptMessage},
		{fetch.ErrUnavailable, later},
		{batch.ErrTooLarge, codeMessageTooLarge},
		{batch.ErrTruncated, codeInvalidRecord},
		{batch.ErrCorrupt, codeCorruptMessage},
		{batch.ErrInvalidRecord, codeInvalidRecord},
		{batch.ErrTimestamp, codeInvalidTimestamp},
		{batch.ErrUnsupportedCodec, codeUnsupportedCompression},
		{batch.ErrUnsupportedMagic, codeInvalidRecord},
		{topicconfig.ErrUnknown, codeInvalidConfig},
		{topicconfig.ErrInvalid, codeInvalidConfig},
		{metastore.ErrTooLarge, codePolicyViolation},
		{metastore.ErrClosed, later},
		{ingest.ErrClosed, later},
		{ingest.ErrSpillLost, codeStorageError},
		{ingest.ErrLock, codePolicyViolation},
		{context.Canceled, later},
		{context.DeadlineExceeded, later},
		{ErrClosed, later},
	} {
		if errors.Is(err, m.is) {
			return m.code, true
		}
	}
	return codeUnknownServerError, false
}

// bug tells of what should not be, a line a minute: clients come back.
func (s *Server) bug(what string, args ...any) {
	if leftOut, write := s.lines.Take(what); write {
		s.cfg.Logger.Error(what, append(args, "left_out", leftOut)...)
	}
}

// codeOf is ofError for handlers: an error nobody thought of is logged.
func (s *Server) codeOf(err error, later errorCode) errorCode {
	code, ok := ofError(err, later)
	if !ok {
		s.bug("no Kafka error code for an error", "error", err)
	}
	return code
}

// codeOfOp is the code for a proposal: its error, or what the state machine said.
func (s *Server) codeOfOp(res state.OpResult, err error) errorCode {
	if err != nil {
		if code, ok := ofError(err, codeRequestTimedOut); ok {
			return code
		}
		return codeRequestTimedOut // its outcome is unknown, whatever it was
	}
	code, ok := ofState(res.Code)
	if !ok {
		s.bug("no Kafka error code for a result", "code", res.Code)
	}
	return code
}
