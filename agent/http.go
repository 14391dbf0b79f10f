package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health is what /readyz answers.
type Health struct {
	Ready    bool   `json:"ready"`
	State    string `json:"state"`              // starting, serving, draining, stopped
	Degraded string `json:"degraded,omitempty"` // what is wrong and shared by all agents: does not take this one out of service
	Behind   string `json:"behind,omitempty"`   // what peers have applied and this agent has not: takes it out of service
	Error    string `json:"error,omitempty"`    // why this agent can serve no more
	Agent    string `json:"agent"`
	NodeID   int32  `json:"node_id"`
	Cluster  string `json:"cluster_id"`
	Applied  uint64 `json:"applied_n"`
	Head     uint64 `json:"head_n"`
}

// newAdmin is the operators' HTTP: liveness, readiness, the cluster, metrics and profiles. Profiles are served to loopback only, since
// they show memory and cost CPU.
func newAdmin(health func() Health, cluster func(context.Context) ClusterStatus, gatherer prometheus.Gatherer) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		h := health()
		w.Header().Set("Content-Type", "application/json")
		switch {
		case h.Ready:
		case h.State == stateNames[draining] && r.URL.Query().Get("draining") == "404":
			// What HAProxy's disable-on-404 takes for "send nobody new, and leave whom it has alone".
			w.WriteHeader(http.StatusNotFound)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h)
	})
	mux.HandleFunc("GET /cluster", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(cluster(r.Context()))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	for path, handler := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		mux.Handle(path, loopbackOnly(handler))
	}
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
}

func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			http.Error(w, "profiles are served to loopback only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
