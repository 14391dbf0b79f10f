package agent

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestReadyzForLoadBalancers: HAProxy takes 404 for "send nobody new, leave whom it has"; everybody else wants 503.
func TestReadyzForLoadBalancers(t *testing.T) {
	var h Health
	server := newAdmin(func() Health { return h }, nil, nil)
	for _, c := range []struct {
		ready bool
		state string
		path  string
		want  int
	}{
		{true, "serving", "/readyz", http.StatusOK},
		{true, "serving", "/readyz?draining=404", http.StatusOK},
		{false, "starting", "/readyz?draining=404", http.StatusServiceUnavailable},
		{false, "serving", "/readyz?draining=404", http.StatusServiceUnavailable},
		{false, "draining", "/readyz", http.StatusServiceUnavailable},
		{false, "draining", "/readyz?draining=404", http.StatusNotFound},
		{false, "stopped", "/readyz?draining=404", http.StatusServiceUnavailable},
	} {
		h = Health{Ready: c.ready, State: c.state}
		w := httptest.NewRecorder()
		server.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, c.path, nil))
		if w.Code != c.want {
			t.Errorf("%s while %s, ready=%v: %d, want %d", c.path, c.state, c.ready, w.Code, c.want)
		}
	}
}
