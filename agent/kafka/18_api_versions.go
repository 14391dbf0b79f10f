package kafka

import "github.com/twmb/franz-go/pkg/kmsg"

// ApiVersions (18), versions 0 to 4. No features are finalised; transaction.version in particular is absent, by which clients
// keep to the protocols before KIP-890.

func (s *Server) apiVersions(req *kmsg.ApiVersionsRequest) *kmsg.ApiVersionsResponse {
	res := kmsg.NewPtrApiVersionsResponse()
	res.Version = req.Version
	if req.Version >= 3 && (!validSoftware(req.ClientSoftwareName) || !validSoftware(req.ClientSoftwareVersion)) {
		res.ErrorCode = int16(codeInvalidRequest)
		s.cfg.Metrics.failed(keyApiVersions, codeInvalidRequest)
		return res
	}
	for _, a := range apis {
		if !a.hidden {
			res.ApiKeys = append(res.ApiKeys, a.row())
		}
	}
	return res
}

func (a api) row() kmsg.ApiVersionsResponseApiKey {
	row := kmsg.NewApiVersionsResponseApiKey()
	row.ApiKey, row.MinVersion, row.MaxVersion = a.key, a.min, a.max
	return row
}

// unknownApiVersions answers a version of ApiVersions that is not spoken: in version 0, with what is (KIP-511).
func (s *Server) unknownApiVersions() reply {
	res := kmsg.NewPtrApiVersionsResponse()
	res.Version, res.ErrorCode = 0, int16(codeUnsupportedVersion)
	a, _ := lookupAPI(keyApiVersions)
	res.ApiKeys = append(res.ApiKeys, a.row())
	s.cfg.Metrics.failed(keyApiVersions, codeUnsupportedVersion)
	return say(res)
}

// validSoftware holds KIP-511's pattern: letters and digits, with dots and dashes between them.
func validSoftware(name string) bool {
	alphanumeric := func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
	}
	if name == "" || !alphanumeric(name[0]) || !alphanumeric(name[len(name)-1]) {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !alphanumeric(c) && c != '.' && c != '-' {
			return false
		}
	}
	return true
}
