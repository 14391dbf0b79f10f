package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId (22), versions 0 to 5, for idempotent producers: each call gives a new id with epoch 0, also to a producer
// that names the id it had, as Kafka does without a transactional id. With one the answer is
// TRANSACTIONAL_ID_AUTHORIZATION_FAILED; Produce says why that code.
func (s *Server) initProducerID(ctx context.Context, req *kmsg.InitProducerIDRequest) *kmsg.InitProducerIDResponse {
	res := kmsg.NewPtrInitProducerIDResponse()
	res.Version, res.ProducerID, res.ProducerEpoch = req.Version, -1, -1
	code := codeNone
	switch {
	case req.TransactionalID != nil && *req.TransactionalID == "":
		code = codeInvalidRequest
	case req.TransactionalID != nil:
		code = codeTransactionalIDDenied
	default:
		ctx, cancel := context.WithTimeout(ctx, s.cfg.ProposeTimeout)
		defer cancel()
		id, err := s.meta.ReserveProducerID(ctx)
		if err != nil {
			s.cfg.Logger.Debug("cannot reserve a producer id", "error", err)
			code = codeCoordinatorNotAvailable // clients try again
		} else {
			res.ProducerID, res.ProducerEpoch = id, 0
		}
	}
	if res.ErrorCode = int16(code); code != codeNone {
		s.cfg.Metrics.failed(keyInitProducerID, code)
	}
	return res
}
