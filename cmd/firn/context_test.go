package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// home runs command lines with an environment and contexts of its own.
type home struct {
	t   *testing.T
	env map[string]string
}

func newHome(t *testing.T) *home {
	return &home{t, map[string]string{"XDG_CONFIG_HOME": t.TempDir()}}
}

func (h *home) run(args ...string) result {
	h.t.Helper()
	var out, errOut bytes.Buffer
	code := run(h.t.Context(), env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut, Args: args,
		Getenv: func(key string) string { return h.env[key] }, Log: slog.New(slog.DiscardHandler),
	})
	return result{code, out.String(), errOut.String()}
}

func (h *home) must(args ...string) string {
	h.t.Helper()
	r := h.run(args...)
	if r.code != exitOK {
		h.t.Fatalf("firn %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.errOut)
	}
	return r.out
}

func TestContexts(t *testing.T) {
	h := newHome(t)
	if out := h.must("context", "list"); out != "CURRENT  NAME  BROKERS  SECURITY\n" {
		t.Errorf("list of nothing: %q", out)
	}
	if r := h.run("context", "show"); r.code != exitNotFound || !strings.Contains(r.errOut, "firn context use") {
		t.Errorf("show without a current one: %+v", r)
	}
	if out := h.must("context", "set", "local", "--brokers", "127.0.0.1:1"); out != "set context local\n" {
		t.Errorf("set: %q", out)
	}
	h.must("context", "set", "prod", "--brokers", "a:1,b:2", "--tls-ca", "/ca.pem", "--sasl-user", "me", "--sasl-password-env", "PW")
	want := "CURRENT  NAME   BROKERS      SECURITY\n*        local  127.0.0.1:1  plain\n         prod   a:1,b:2      TLS, SCRAM-SHA-512 as me\n"
	if out := h.must("context", "list"); out != want {
		t.Errorf("list:\n%s\nwant\n%s", out, want)
	}
	h.must("context", "use", "prod")
	want = "name                     prod\nbrokers                  a:1,b:2\nsecurity                 TLS, SCRAM-SHA-512 as me\ntls ca                   /ca.pem\npassword in environment  PW\n"
	if out := h.must("context", "show"); out != want {
		t.Errorf("show:\n%s\nwant\n%s", out, want)
	}
	h.must("context", "set", "prod", "--brokers", "c:3", "--sasl-mechanism", "PLAIN", "--sasl-password-file", "/pw", "--tls-server-name", "n")
	var v contextView
	if err := json.Unmarshal([]byte(h.must("context", "show", "prod", "-o", "json")), &v); err != nil {
		t.Fatal(err)
	}
	if !v.Current || v.TLS.CA != "/ca.pem" || v.TLS.ServerName != "n" || v.SASL.User != "me" || v.SASL.PasswordEnv != "" || v.SASL.PasswordFile != "/pw" || v.SASL.Mechanism != "PLAIN" {
		t.Errorf("changed: %+v %+v %+v", v, v.TLS, v.SASL)
	}
	h.must("context", "set", "prod", "--tls=false", "--no-sasl")
	if out := h.must("context", "show", "-o", "json"); strings.Contains(out, "tls") || strings.Contains(out, "sasl") {
		t.Errorf("taken away: %s", out)
	}
	for _, args := range [][]string{{"use", "x"}, {"show", "x"}, {"delete", "local", "x"}} {
		if r := h.run(append([]string{"context"}, args...)...); r.code != exitNotFound || !strings.Contains(r.errOut, `context "x"`) {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if out := h.must("__complete", "context", "use", ""); !strings.Contains(out, "local\nprod\n") {
		t.Errorf("completion: %q", out)
	}
	if out := h.must("__complete", "topic", "list", "--context", ""); !strings.Contains(out, "local\nprod\n") {
		t.Errorf("completion of the flag: %q", out)
	}
	if err := json.Unmarshal([]byte(h.must("context", "use", "local", "-o", "json")), &v); err != nil || v.Name != "local" || !v.Current {
		t.Errorf("use: %+v, %v", v, err)
	}
	if err := json.Unmarshal([]byte(h.must("context", "set", "third", "--brokers", "x:1", "-o", "json")), &v); err != nil || v.Name != "third" || v.Current {
		t.Errorf("set: %+v, %v", v, err)
	}
	if out := h.must("context", "delete", "third", "-o", "json"); out != "{\n  \"deleted\": [\n    \"third\"\n  ]\n}\n" {
		t.Errorf("delete: %s", out)
	}
	if out := h.must("context", "delete", "prod", "local"); out != "deleted context prod, local\n" {
		t.Errorf("delete: %q", out)
	}
	if out := h.must("context", "list", "-o", "json"); out != "[]\n" {
		t.Errorf("list after: %q", out)
	}
}

// Which brokers a command talks to, and with what security.
func TestWhereBrokersComeFrom(t *testing.T) {
	h := newHome(t)
	h.must("context", "set", "one", "--brokers", "one:1")
	h.must("context", "set", "two", "--brokers", "two:2", "--tls")
	h.must("context", "use", "two")
	for _, tt := range []struct {
		flags, env string // NAME=VALUE
		brokers    string
		secured    bool
	}{
		{"", "", "two:2", true},
		{"", "FIRN_CONTEXT=one", "one:1", false},
		{"--context=one", "", "one:1", false},
		{"--context=one", "FIRN_BROKERS=env:1", "one:1", false},
		{"--context=two", "FIRN_CONTEXT=one", "two:2", true},
		{"", "FIRN_BROKERS=env:1", "env:1", false},
		{"--brokers=flag:1", "", "flag:1", false},
		{"--brokers=flag:1", "FIRN_BROKERS=env:1", "flag:1", false},
		{"--brokers=flag:1 --context=two", "", "flag:1", true},
	} {
		name, value, _ := strings.Cut(tt.env, "=")
		vars := map[string]string{"XDG_CONFIG_HOME": h.env["XDG_CONFIG_HOME"], name: value}
		cmd := newTopicList(env{Getenv: func(key string) string { return vars[key] }})
		r := remoteFlags(newVersion(env{}), env{}) // a command without flags of its own
		*r = remote{env: env{Getenv: func(key string) string { return vars[key] }}, named: cmd.Flags().Changed}
		if err := cmd.ParseFlags(strings.Fields(tt.flags)); err != nil {
			t.Fatal(err)
		}
		r.brokers, _ = cmd.Flags().GetStringSlice("brokers")
		r.context, _ = cmd.Flags().GetString("context")
		brokers, security, err := r.resolve()
		if err != nil || strings.Join(brokers, ",") != tt.brokers || (security != nil) != tt.secured {
			t.Errorf("%s %s: %v, secured %t, %v", tt.flags, tt.env, brokers, security != nil, err)
		}
	}
	h.must("context", "delete", "one", "two")
	if r := h.run("topic", "list", "--context", "one"); r.code != exitNotFound || !strings.Contains(r.errOut, "firn context set one") {
		t.Errorf("unknown context: %+v", r)
	}
	// A file that cannot be read stands in nobody's way who does not need it.
	path := filepath.Join(h.env["XDG_CONFIG_HOME"], "firn", "contexts.yaml")
	if err := os.WriteFile(path, []byte("version: 9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := h.run("topic", "list"); r.code != exitFailure || !strings.Contains(r.errOut, "a newer firn wrote it") {
		t.Errorf("newer file: %+v", r)
	}
	if r := h.run("topic", "list", "--brokers", "127.0.0.1:1"); r.code != exitNoAnswer {
		t.Errorf("newer file that is not needed: %+v", r)
	}
}

// certificate makes a certificate for 127.0.0.1 and the file of the authority that signed it: itself.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"kafka.test"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, ca
}

func TestTLSAndUsers(t *testing.T) {
	pair, ca := certificate(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "me", "right"), kfake.Superuser("SCRAM-SHA-256", "me", "right"), kfake.Superuser("SCRAM-SHA-512", "me", "right"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	h := newHome(t)
	h.env["PW"] = "right"
	h.must("context", "set", "c", "--brokers", c.ListenAddrs()[0], "--tls-ca", ca, "--sasl-user", "me", "--sasl-password-env", "PW")
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		h.must("context", "set", "c", "--sasl-mechanism", mechanism)
		h.must("topic", "list")
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must("context", "set", "c", "--sasl-password-file", password)
	h.must("topic", "create", "t")
	h.must("bench", "--duration", "3s", "--warmup", "0s", "--rate", "100/s", "--producers", "1")
	h.must("verify", "--duration", "1s", "--rate", "100", "--drain-timeout", "2m", "-o", "json")
	refusal := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.SASLAuthenticate}, Err: kerr.SaslAuthenticationFailed, Count: 1})
	if r := h.run("topic", "list"); r.code != exitDenied || !strings.Contains(r.errOut, "check user and password") {
		t.Errorf("refused: %+v", r)
	}
	refusal.Remove()

	for _, tt := range []struct {
		name   string
		change []string
		code   int
		want   string
	}{
		{"wrong password", []string{"--sasl-password-env", "WRONG"}, exitNoAnswer, "not like the password"}, // this broker says nothing
		{"no user", []string{"--no-sasl"}, exitNoAnswer, "the broker may want TLS or a user"},
		{"unknown authority", []string{"--tls-ca", ""}, exitDenied, "--tls-ca"},
		{"another name", []string{"--tls-ca", ca, "--tls-server-name", "other.test"}, exitDenied, "--tls-server-name"},
		{"no TLS", []string{"--tls=false"}, exitNoAnswer, "the broker may want TLS or a user"},
	} {
		h.env["WRONG"] = "wrong"
		h.must(append([]string{"context", "set", "c"}, tt.change...)...)
		for _, line := range [][]string{{"topic", "list"}, {"consume", "t"}, {"produce", "t"}} {
			if r := h.run(line...); r.code != tt.code || !strings.Contains(r.errOut, tt.want) || strings.Count(r.errOut, "\n") != 1 {
				t.Errorf("%s: %v: %+v", tt.name, line, r)
			}
		}
	}
	h.must("context", "set", "c", "--brokers", answering(t, "HTTP/1.1 400 Bad Request\r\n\r\n"), "--tls", "--no-sasl")
	if r := h.run("topic", "list"); r.code != exitNoAnswer || !strings.Contains(r.errOut, "speaks no TLS") {
		t.Errorf("TLS to what speaks none: %+v", r)
	}
}

// answering listens, and answers every connection with the same bytes.
func answering(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_, _ = c.Write([]byte(answer))
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}
