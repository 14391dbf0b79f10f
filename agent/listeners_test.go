package agent_test

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent"
)

// Each listener sends its clients to its own address.
func TestClientsStayOnTheirListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, func(s *setup) {
		s.parts.Listeners = map[string]net.Listener{"inner": inner}
		s.cfg.Listeners = []agent.Listener{{Name: "inner", Advertise: inner.Addr().String()}}
	})
	for _, at := range []string{n.kafka, inner.Addr().String()} {
		client, err := kgo.NewClient(kgo.SeedBrokers(at), kgo.AllowAutoTopicCreation())
		if err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		meta, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		var hosts []string
		for _, m := range meta.Brokers {
			hosts = append(hosts, fmt.Sprintf("%s:%d", m.Host, m.Port))
		}
		if !slices.Equal(hosts, []string{at}) {
			t.Errorf("who came by %s was sent to %v", at, hosts)
		}
		client.Close()
	}
}

func TestListenersAndSocketsGoTogether(t *testing.T) {
	for name, tune := range map[string]func(*setup){
		"no socket": func(s *setup) { s.cfg.Listeners = []agent.Listener{{Name: "inner", Advertise: "h:1"}} },
		"no listener": func(s *setup) {
			s.cfg.Advertise, s.cfg.Listeners = "", []agent.Listener{{Name: "inner", Advertise: "h:1"}}
		},
		"the same address": func(s *setup) { s.cfg.Listeners = []agent.Listener{{Name: "inner", Advertise: s.cfg.Advertise}} },
		"the same name":    func(s *setup) { s.cfg.Listeners = []agent.Listener{{Name: "kafka", Advertise: "h:1"}} },
		"the agents' own":  func(s *setup) { s.cfg.Listeners = []agent.Listener{{Name: "internal", Advertise: "h:1"}} },
	} {
		t.Run(name, func(t *testing.T) {
			s := prepare(t)
			tune(s)
			if a, err := agent.Start(t.Context(), s.cfg, s.parts); err == nil {
				a.Kill()
				t.Error("started")
			}
		})
	}
}
