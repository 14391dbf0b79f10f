package kafka

import "github.com/twmb/franz-go/pkg/kmsg"

// SaslHandshake (17), versions 0 and 1, not advertised: this listener takes no SASL. ILLEGAL_SASL_STATE is what Kafka answers
// on a listener without it, and clients report it as such.
func (s *Server) saslHandshake(req *kmsg.SASLHandshakeRequest) *kmsg.SASLHandshakeResponse {
	res := kmsg.NewPtrSASLHandshakeResponse()
	res.Version, res.ErrorCode = req.Version, int16(codeIllegalSaslState)
	s.cfg.Metrics.failed(keySaslHandshake, codeIllegalSaslState)
	return res
}
