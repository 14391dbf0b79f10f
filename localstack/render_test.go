package localstack

import (
	"bytes"
	"flag"
	"os"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the files anew")

// Rendered are HAProxy's files that others use: the same that the fault tests run, with other addresses.
var rendered = []struct {
	path   string
	config HAProxyConfig
}{
	{"../docs/deploy/haproxy.cfg", HAProxyConfig{Kafka: ":9092", Stats: "127.0.0.1:8404", Servers: []HAProxyServer{
		{"a1", "10.0.0.11:9092", "8080"}, {"a2", "10.0.0.12:9092", "8080"}, {"a3", "10.0.0.13:9092", "8080"},
	}}},
	{"compose-haproxy.cfg", HAProxyConfig{Kafka: ":9092", Stats: ":8404", Resolver: "127.0.0.11:53", Servers: []HAProxyServer{
		{"a1", "a1:9094", "8080"}, {"a2", "a2:9094", "8080"}, {"a3", "a3:9094", "8080"},
	}}},
}

func TestHAProxysFilesAreTheOneThatIsTested(t *testing.T) {
	for _, r := range rendered {
		want, err := r.config.Render()
		if err != nil {
			t.Fatal(err)
		}
		if *rewrite {
			if err := os.WriteFile(r.path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(r.path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what haproxy.cfg makes of its addresses, %v: go test ./localstack -run HAProxysFiles -rewrite", r.path, err)
		}
	}
}
