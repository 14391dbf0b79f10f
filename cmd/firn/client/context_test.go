package client_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/firnlog/firn/cmd/firn/client"
)

func TestContextsPath(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/firn/contexts.yaml"},
		{map[string]string{"XDG_CONFIG_HOME": "relative", "HOME": "/h"}, "/h/.config/firn/contexts.yaml"},
		{map[string]string{"HOME": "/h"}, "/h/.config/firn/contexts.yaml"},
		{nil, ""},
	} {
		if got := client.ContextsPath(func(key string) string { return tt.env[key] }); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.env, got, tt.want)
		}
	}
}

func TestContextsAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "firn", "contexts.yaml")
	empty, err := client.LoadContexts(path)
	if err != nil || len(empty.Contexts) != 0 {
		t.Fatalf("%+v, %v", empty, err)
	}
	want := client.Contexts{Version: 1, Current: "b", Contexts: map[string]client.Context{
		"a": {Brokers: []string{"a:1"}},
		"b": {
			Brokers: []string{"b:1", "b:2"},
			TLS:     &client.TLS{CA: "/ca", Cert: "/c", Key: "/k", ServerName: "n"},
			SASL:    &client.SASL{Mechanism: "PLAIN", User: "u", PasswordEnv: "PW"},
		},
		"c": {Brokers: []string{"c:1"}, TLS: &client.TLS{}},
	}}
	for range 2 { // a new file, then in place of an old one
		if err := want.Save(path); err != nil {
			t.Fatal(err)
		}
	}
	got, err := client.LoadContexts(path)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// The file as version 1 has it stays readable.
func TestContextsVersion1(t *testing.T) {
	got, err := client.LoadContexts("testdata/contexts-v1.yaml")
	want := client.Contexts{Version: 1, Current: "prod", Contexts: map[string]client.Context{
		"local": {Brokers: []string{"127.0.0.1:9092"}},
		"prod": {
			Brokers: []string{"k1.example.net:9093", "k2.example.net:9093"},
			TLS:     &client.TLS{CA: "/etc/ssl/prod.pem", Cert: "/home/me/me.pem", Key: "/home/me/me.key", ServerName: "kafka.example.net"},
			SASL:    &client.SASL{Mechanism: "SCRAM-SHA-512", User: "me", PasswordFile: "/home/me/password"},
		},
	}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestContextsThatCannotBe(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"newer":           {"version: 2\nclusters: []\n", "version 2, a newer firn wrote it"},
		"no version":      {"contexts: {}\n", "no version"},
		"not YAML":        {"version: [\n", "contexts file"},
		"unknown field":   {"version: 1\ncontexts: {a: {brokers: [a:1], tsl: {}}}\n", "field tsl not found; mend it"},
		"bad address":     {"version: 1\ncontexts: {a: {brokers: [a]}}\n", `context "a"`},
		"no brokers":      {"version: 1\ncontexts: {a: {}}\n", "name at least one"},
		"missing current": {"version: 1\ncurrent: b\ncontexts: {a: {brokers: [a:1]}}\n", `"b" is not in it`},
		"bad mechanism":   {"version: 1\ncontexts: {a: {brokers: [a:1], sasl: {mechanism: MD5, user: u, password_env: P}}}\n", "MD5"},
		"two passwords":   {"version: 1\ncontexts: {a: {brokers: [a:1], sasl: {mechanism: PLAIN, user: u, password_env: P, password_file: F}}}\n", "name one place"},
		"huge":            {"version: 1\n#" + strings.Repeat("x", 1<<20), "not one of ours"},
	} {
		path := filepath.Join(t.TempDir(), "contexts.yaml")
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := client.LoadContexts(path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if _, err := client.LoadContexts(t.TempDir()); err == nil {
		t.Error("a directory is no contexts file")
	}
	if _, err := (client.Contexts{}).Get("x"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if err := (client.Contexts{}).Save(""); !errors.Is(err, client.ErrUsage) {
		t.Errorf("%v", err)
	}
}

func TestSecurityProblemsAreNamed(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sasl := func(env, file string) *client.SASL {
		return &client.SASL{Mechanism: "PLAIN", User: "u", PasswordEnv: env, PasswordFile: file}
	}
	for name, tt := range map[string]struct {
		context client.Context
		want    string
	}{
		"no CA":             {client.Context{TLS: &client.TLS{CA: filepath.Join(dir, "none")}}, "none"},
		"CA without any":    {client.Context{TLS: &client.TLS{CA: empty}}, "no certificate"},
		"no certificate":    {client.Context{TLS: &client.TLS{Cert: filepath.Join(dir, "none"), Key: empty}}, "client certificate"},
		"variable not set":  {client.Context{SASL: sasl("UNSET", "")}, "UNSET"},
		"no password file":  {client.Context{SASL: sasl("", filepath.Join(dir, "none"))}, "none"},
		"empty in the file": {client.Context{SASL: sasl("", empty)}, "is empty"},
	} {
		if _, err := tt.context.Security(func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
