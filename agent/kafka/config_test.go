package kafka_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore/entry"
)

func TestConfigReportsEveryProblem(t *testing.T) {
	good := kafka.Config{}
	if err := good.Validate(); err != nil || good.ProduceBytesMax == 0 || good.Logger == nil || good.Metrics == nil {
		t.Errorf("%v, %+v", err, good)
	}
	bad := kafka.Config{IdleTimeout: -1, InFlightBytes: 5, FetchInFlightBytes: 5, DefaultPartitions: 20_000, DefaultReplicationFactor: -1}
	err := bad.Validate()
	for _, part := range []string{"idle timeout is negative", "in-flight bytes are below", "fetch in-flight", "default partitions", "replication factor"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not reported: %v", part, err)
		}
	}
	if _, err := kafka.New(good, nil, nil, nil, nil); err == nil {
		t.Error("a server of nothing")
	}
}

func TestMetrics(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		a := newCluster(t).join("a")
		a.topic("t", 1)
		s := server(t, a, func(c *kafka.Config) { c.Metrics = kafka.NewMetrics(reg) })
		ln := newPipeListener()
		go func() { _ = s.Serve("kafka", ln) }()
		c := &client{t: t, nc: ln.dial(), out: make(chan []byte, 10)}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for b := range c.out {
				_, _ = c.nc.Write(b)
			}
		}()
		defer func() { c.close(); <-done }()
		c.produce("t", 0, "x")
		c.produce("t", 0, "y")
		req := fetchRequest(12, "absent", entry.UUID{}, 0, 0)
		ask[*kmsg.FetchResponse](c, req)
		faketime.Wait()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]float64)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				key := f.GetName()
				for _, l := range m.GetLabel() {
					key += " " + l.GetValue()
				}
				got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		for key, want := range map[string]float64{
			"firn_kafka_requests_total Produce": 2, "firn_kafka_request_seconds Produce": 2, "firn_kafka_requests_total Fetch": 1,
			"firn_kafka_errors_total Fetch UNKNOWN_TOPIC_OR_PARTITION": 1, "firn_kafka_connections": 1,
			"firn_kafka_in_flight_bytes": 0, "firn_kafka_fetch_in_flight_bytes": 0,
		} {
			if v, ok := got[key]; !ok || v != want {
				t.Errorf("%s is %v, want %v", key, v, want)
			}
		}
	})
}
