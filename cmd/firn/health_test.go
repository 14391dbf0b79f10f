package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHealth(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"ready":false,"state":"draining"}`))
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	}))
	defer web.Close()
	at := strings.TrimPrefix(web.URL, "http://")
	_, port, _ := strings.Cut(at, ":")
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"--http " + at, exitOK, "ok\n"},
		{"--http 0.0.0.0:" + port, exitOK, "ok\n"},
		{"--http :" + port, exitOK, "ok\n"},
		{"--ready --http " + at, exitCheck, "draining"},
		{"--http 127.0.0.1:1", exitNoAnswer, "no agent answers: "},
		{"--http nowhere", exitUsage, `"nowhere" is not host:port`},
		{"--timeout 0s", exitUsage, "--timeout: 0s"},
	} {
		r := execute(t.Context(), "", "", append([]string{"health"}, strings.Fields(c.args)...)...)
		if r.code != c.code || !strings.Contains(r.out+r.errOut, c.says) {
			t.Errorf("firn health %s: code %d, want %d and %q\n%s%s", c.args, r.code, c.code, c.says, r.out, r.errOut)
		}
	}
}
