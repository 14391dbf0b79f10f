package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/state"
)

// ApiVersions (18), versions 0 to 4. Of Kafka's features there is group.version, at 1 from the feature level on that has groups: the
// consumer protocol is served. transaction.version is absent, by which clients keep to the protocols before KIP-890.

const (
	groupFeature      = "group.version"
	groupFeatureLevel = 2 // from which there are groups
)

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
	if req.Version >= 3 {
		s.features(res)
	}
	return res
}

// features adds what the cluster has settled on.
func (s *Server) features(res *kmsg.ApiVersionsResponse) {
	// Kafka supports level 0 as well. Version 3 has no room for that (KAFKA-17011), and there is no way back from 1.
	can := kmsg.NewApiVersionsResponseSupportedFeature()
	can.Name, can.MinVersion, can.MaxVersion = groupFeature, 1, 1
	res.SupportedFeatures = append(res.SupportedFeatures, can)
	var level uint32
	s.meta.View(func(st *state.State) { level = st.FeatureLevel() })
	res.FinalizedFeaturesEpoch = int64(level)
	if level >= groupFeatureLevel {
		does := kmsg.NewApiVersionsResponseFinalizedFeature()
		does.Name, does.MinVersionLevel, does.MaxVersionLevel = groupFeature, 1, 1
		res.FinalizedFeatures = append(res.FinalizedFeatures, does)
	}
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
