package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/agent"
)

func TestClusterStatusOfARunningAgent(t *testing.T) {
	f := dev(t, "--memory")
	f.ready()
	at := strings.TrimPrefix(strings.Fields(field(t, f, "http"))[0], "http://")
	var text string
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) { // until it owns the slots
		var code int
		var errs string
		if code, text, errs = once(t, "", "cluster", "status", "--agent", at); code == 0 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("exit code %d: %s", code, errs)
		}
	}
	for _, want := range []string{"feature level", "as agent memory sees it", "ready", "kafka=127.0.0.1:", "internal=127.0.0.1:"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	var s agent.ClusterStatus
	if err := json.Unmarshal([]byte(must(t, "", "cluster", "status", "--agent", at, "-o", "json")), &s); err != nil || len(s.Agents) != 1 || !s.Agents[0].Status.Ready {
		t.Errorf("%+v, %v", s, err)
	}
}

// A cluster that is not well, as it is printed, and its exit code.
func TestClusterStatusOfAnIllCluster(t *testing.T) {
	ill := agent.ClusterStatus{
		ClusterID: "id", FeatureLevel: 2, Applied: 90, Topics: 3, Groups: 2, AskedAgent: "a", SlotsUnowned: 20, EtcdError: "etcd is out",
		Agents: []agent.AgentStatus{
			{NodeID: 1, Name: "a", Zone: "z1", Version: "v1", Slots: 44, Listeners: map[string]string{"kafka": "a:9092", "internal": "a:9093"},
				Status: &agent.Status{Health: agent.Health{Ready: true, State: "serving", Applied: 90, Head: 100}, Connections: 7}},
			{NodeID: 2, Name: "b", Status: &agent.Status{Health: agent.Health{State: "serving", Behind: "agent \"a\" applied n=90", Applied: 50, Head: 50}}},
			{NodeID: 3, Name: "c", Error: "agent not reachable"},
			{NodeID: 4, Name: "d", Status: &agent.Status{Health: agent.Health{State: "draining", Applied: 100, Head: 100}}},
			{NodeID: 5, Name: "e", Status: &agent.Status{Health: agent.Health{Ready: true, State: "serving", Degraded: "bucket_read: out", Applied: 100, Head: 100}}},
		},
		Etcd: []agent.EtcdMember{{Endpoint: "http://e1:2379", Is: map[string]string{"version": "3.7.1", "leader": "true", "db_bytes": "5000000", "db_used_bytes": "100000", "quota_bytes": "8589934592"}},
			{Endpoint: "http://e2:2379", Is: map[string]string{"error": "refused"}}},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(ill) }))
	defer server.Close()
	code, out, errs := once(t, "", "cluster", "status", "--agent", strings.TrimPrefix(server.URL, "http://"))
	want := `cluster id, feature level 2, log at n=100, 3 topics, 2 groups, as agent a sees it
NODE  AGENT  ZONE  VERSION  STATE      LAG  SLOTS  CONNECTIONS  LISTENERS
1     a      z1    v1       ready      10   44     7            internal=a:9093 kafka=a:9092
2     b      -     -        behind     50   0      0            
3     c      -     -        no answer  -    0      -            
4     d      -     -        draining   0    0      0            
5     e      -     -        degraded   0    0      0            
ETCD            VERSION  LEADER  SIZE     IN USE    QUOTA    ALARMS
http://e1:2379  3.7.1    true    4.8 MiB  97.7 KiB  8.0 GiB  -
http://e2:2379  no answer: refused
`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if code != exitCheck {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{`agent b is behind: agent "a" applied n=90`, "agent c did not answer: agent not reachable", "agent d is draining", "agent e is degraded: bucket_read: out",
		"20 slots", "etcd: etcd is out"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is missing in %s", want, errs)
		}
	}
}

func TestClusterStatusOfWhatIsNoAgent(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, x := range []struct {
		at, says string
		code     int
	}{
		{strings.TrimPrefix(other.URL, "http://"), "not the --http address of a firn agent", exitFailure},
		{strings.TrimPrefix(gone.URL, "http://"), "no agent answers at", exitNoAnswer},
		{"nowhere", "is not host:port", exitUsage},
	} {
		if code, _, errs := once(t, "", "cluster", "status", "--agent", x.at); code != x.code || !strings.Contains(errs, x.says) {
			t.Errorf("%s: %d %s", x.at, code, errs)
		}
	}
}
