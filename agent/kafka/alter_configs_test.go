package kafka_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
)

// replacement is an AlterConfigs of one resource; a config without "=" has a null value.
func replacement(kind kmsg.ConfigResourceType, name string, configs ...string) *kmsg.AlterConfigsRequest {
	req := kmsg.NewPtrAlterConfigsRequest()
	req.Version = 2
	rr := kmsg.NewAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kind, name
	for _, c := range configs {
		rc := kmsg.NewAlterConfigsRequestResourceConfig()
		if k, v, ok := strings.Cut(c, "="); ok {
			rc.Name, rc.Value = k, &v
		} else {
			rc.Name = c
		}
		rr.Configs = append(rr.Configs, rc)
	}
	req.Resources = append(req.Resources, rr)
	return req
}

func TestAlterConfigsReplacesAll(t *testing.T) {
	const topic, broker, logger = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger
	faketime.Test(t, func(t *testing.T) {
		a := newCluster(t).join("a")
		a.topic("t", 1, entry.Config{Name: "retention.ms", Value: "77"}, entry.Config{Name: "segment.ms", Value: "88"})
		c := dial(t, server(t, a))
		set := func(kind kmsg.ConfigResourceType, name string) string {
			t.Helper()
			var list []string
			for _, d := range describe(c, kind, name).Configs {
				if d.Source == kmsg.ConfigSourceDynamicTopicConfig || d.Source == kmsg.ConfigSourceDynamicDefaultBrokerConfig {
					list = append(list, d.Name+"="+*d.Value)
				}
			}
			return strings.Join(list, " ")
		}
		for _, tc := range []struct {
			why  string
			req  *kmsg.AlterConfigsRequest
			only bool
			code int16
			want string
		}{
			{"unknown name", replacement(topic, "t", "retention.days=1"), false, 40, "retention.ms=77 segment.ms=88"},
			{"bad value", replacement(topic, "t", "retention.ms=week"), false, 40, "retention.ms=77 segment.ms=88"},
			{"null value", replacement(topic, "t", "retention.ms"), false, 42, "retention.ms=77 segment.ms=88"},
			{"given twice", replacement(topic, "t", "retention.ms=1", "retention.ms=2"), false, 42, "retention.ms=77 segment.ms=88"},
			{"contradiction", replacement(topic, "t", "min.compaction.lag.ms=5", "max.compaction.lag.ms=4"), false, 40, "retention.ms=77 segment.ms=88"},
			{"absent", replacement(topic, "absent", "retention.ms=1"), false, 3, "retention.ms=77 segment.ms=88"},
			{"no name", replacement(topic, "", "retention.ms=1"), false, 42, "retention.ms=77 segment.ms=88"},
			{"an agent's own", replacement(broker, "1", "log.retention.ms=1"), false, 42, "retention.ms=77 segment.ms=88"},
			{"a logger", replacement(logger, "1", "root=DEBUG"), false, 42, "retention.ms=77 segment.ms=88"},
			{"validate only", replacement(topic, "t", "retention.ms=5"), true, 0, "retention.ms=77 segment.ms=88"},
			{"replaced", replacement(topic, "t", "max.message.bytes=1000"), false, 0, "max.message.bytes=1000"},
			{"nothing left", replacement(topic, "t"), false, 0, ""},
		} {
			tc.req.ValidateOnly = tc.only
			r := ask[*kmsg.AlterConfigsResponse](c, tc.req).Resources[0]
			if r.ErrorCode != tc.code || (r.ErrorMessage == nil) != (tc.code == 0) {
				t.Errorf("%s: code %d, %v", tc.why, r.ErrorCode, r.ErrorMessage)
			}
			if got := set(topic, "t"); got != tc.want {
				t.Errorf("%s: %q, want %q", tc.why, got, tc.want)
			}
		}
		// Cluster-wide configs are replaced likewise.
		for _, configs := range [][]string{{"log.retention.ms=5", "message.max.bytes=9"}, {"log.retention.ms=6"}, nil} {
			if r := ask[*kmsg.AlterConfigsResponse](c, replacement(broker, "", configs...)).Resources[0]; r.ErrorCode != 0 {
				t.Errorf("cluster-wide: code %d", r.ErrorCode)
			}
			if got := set(broker, ""); got != strings.Join(configs, " ") {
				t.Errorf("cluster-wide: %q, want %v", got, configs)
			}
		}
		// A resource named twice is refused, the one beside it altered.
		req := replacement(topic, "t", "retention.ms=1")
		req.Resources = append(req.Resources, req.Resources[0], replacement(broker, "", "message.max.bytes=9").Resources[0])
		var codes []int16
		for _, r := range ask[*kmsg.AlterConfigsResponse](c, req).Resources {
			codes = append(codes, r.ErrorCode)
		}
		if want := []int16{42, 42, 0}; !slices.Equal(codes, want) {
			t.Errorf("codes %v, want %v", codes, want)
		}
		a.with(func(a *agent) { a.barrierErr = errors.New("no quorum") })
		if r := ask[*kmsg.AlterConfigsResponse](c, replacement(topic, "t", "retention.ms=1")).Resources[0]; r.ErrorCode != 7 {
			t.Errorf("without a barrier: %s", fmt.Sprint(r))
		}
	})
}
