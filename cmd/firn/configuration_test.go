package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/cmd/firn/settings"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log/certtest"
	"github.com/firnlog/firn/metastore/log/etcdembed"
)

// with runs a command line in an environment.
func with(t *testing.T, variables map[string]string, args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(t.Context(), env{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errOut, Args: args, Log: slog.New(slog.DiscardHandler),
		Getenv: func(key string) string { return variables[key] },
		Environ: func() []string {
			var all []string
			for k, v := range variables {
				all = append(all, k+"="+v)
			}
			return all
		},
	})
	return result{code, out.String(), errOut.String()}
}

// The page is what the program says.
func TestConfigurationIsDocumented(t *testing.T) {
	want, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := writeConfiguration(&got); err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Error("docs/configuration.md is not what the program says; run make generate")
	}
}

// Every setting changes something when it is given, and every field of an agent's configuration can be set.
func TestEverySettingHasAnEffect(t *testing.T) {
	fresh := func() *serving {
		s := &serving{dataDir: "d"}
		s.declareDev()
		return s
	}
	changed := make(map[string]string)
	for _, x := range fresh().set.All() {
		value := "x"
		switch {
		case x.Type == "true|false":
			value = map[string]string{"true": "false", "false": "true"}[x.Default]
		case strings.Contains(x.Type, "|"):
			words := strings.Split(x.Type, "|")
			if value = words[0]; value == x.Default {
				value = words[1]
			}
		case x.Bounds != "":
			least, most, _ := strings.Cut(x.Bounds, " to ")
			if value = least; value == x.Default {
				value = most
			}
		case x.Name == "kafka", x.Name == "http", x.Name == "internal", strings.HasPrefix(x.Name, "advertise"), x.Name == "etcd":
			value = "host:1"
		case x.Name == "client-zones":
			value = "10.0.0.0/8=a"
		case x.Name == "trusted-proxies":
			value = "10.0.0.0/8"
		case x.Name == "etcd-prefix":
			value = "/x"
		case x.Name == "bucket":
			value = "mem://"
		case x.Name == "config":
			continue
		}
		s := fresh()
		before := reflect.ValueOf(s.agent)
		_, problems := s.set.Resolve(settings.Environment{Getenv: func(k string) string { return map[string]string{x.Env(): value}[k] }})
		if len(problems) > 0 {
			t.Errorf("%s=%s: %v", x.Name, value, problems)
		}
		now := s.set.Lookup(x.Name)
		if now.Source != settings.FromEnvironment || !x.Secret && now.Value() != value {
			t.Errorf("%s=%s: is %q from %s", x.Name, value, now.Value(), now.Origin())
		}
		after := reflect.ValueOf(s.agent)
		for i := range after.NumField() {
			if !reflect.DeepEqual(before.Field(i).Interface(), after.Field(i).Interface()) {
				name := after.Type().Field(i).Name
				if changed[name] != "" {
					t.Errorf("%s and %s both set %s", changed[name], x.Name, name)
				}
				changed[name] = x.Name
			}
		}
	}
	config := reflect.TypeFor[serving]()
	field, _ := config.FieldByName("agent")
	for i := range field.Type.NumField() {
		if name := field.Type.Field(i).Name; changed[name] == "" && name != "Version" && name != "Advertise" && name != "Listeners" { // these two come of kafka and advertise together, see TestListenersAreJudgedTogether
			t.Errorf("no setting reaches agent.Config.%s", name)
		}
	}
}

func TestCheckConfigFindsEverythingAtOnce(t *testing.T) {
	problems, err := filepath.Abs("testdata/check-config-problems.txt")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	ca := certtest.NewAuthority(t)
	one, other := ca.Client(t, "one"), ca.Client(t, "other")
	for name, content := range map[string]string{
		"firn.yaml": `kafka: 0.0.0.0:9092
segment-bites: 1MiB
flush-interval: 250
connections: 20000
connections: 30000
etcd-password: hunter2
etcd-username: firn
etcd: [https://10.0.0.5:2379, http://10.0.0.6]
bucket: s3://snow?region=x&zone=y
etcd-ca-file: ca.pem
etcd-cert-file: cert.pem
etcd-key-file: key.pem
fetch-in-flight-bytes: 1MiB
`,
		"ca.pem":   "nothing",
		"cert.pem": read(t, one.Cert),
		"key.pem":  read(t, other.Key),
		"data":     "",
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	environment := map[string]string{
		"FIRN_UPLOAD_SLOTS": "many", "FIRN_ETCD_PASSWORD": "swordfish", "FIRN_UPLOAD_SLOT": "1", "FIRN_BROKERS": "h:1", "FIRN_DATA_DIR": "data",
	}
	args := []string{"agent", "--config", "firn.yaml", "--check-config", "--drain-timeout", "0s", "--metrics-detail=all", "--request-bytes", "12"}
	r := with(t, environment, args...)
	if r.code != exitUsage || r.out != "" {
		t.Errorf("exit code %d, output %q", r.code, r.out)
	}
	golden(t, problems, strings.ReplaceAll(r.errOut, dir, "DIR"))
	j := with(t, environment, append(args, "-o", "json")...)
	var report checkReport
	if err := json.Unmarshal([]byte(j.out), &report); err != nil || report.Valid || j.code != exitUsage {
		t.Fatalf("%v: %+v", err, j)
	}
	for _, p := range report.Problems {
		if !strings.Contains(r.errOut, "firn: "+p+"\n") {
			t.Errorf("only in JSON: %s", p)
		}
	}
	if lines := strings.Count(r.errOut, "firn: ") - strings.Count(r.errOut, "firn: warning: "); lines != len(report.Problems) {
		t.Errorf("%d problems as text, %d as JSON", lines, len(report.Problems))
	}
	for _, secret := range []string{"hunter2", "swordfish"} {
		if strings.Contains(r.errOut+j.out+j.errOut, secret) {
			t.Errorf("%s was printed", secret)
		}
	}
	// Without --check-config the same stops the start.
	if r := with(t, environment, "agent", "--config", "firn.yaml"); r.code != exitUsage || !strings.Contains(r.errOut, "firn.yaml:2 segment-bites") {
		t.Errorf("start: %+v", r)
	}
	if _, err := os.Stat("firn-agent"); err == nil {
		t.Error("a start that was refused made its data directory")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestCheckConfigPrintsWhatIsInForce(t *testing.T) {
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	example, want := filepath.Join(here, "../../docs/firn.yaml"), filepath.Join(here, "testdata/check-config.txt")
	body := strings.ReplaceAll(read(t, example), "# etcd-username", "etcd-username")
	t.Chdir(t.TempDir())
	if err := os.WriteFile("firn.yaml", []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := map[string]string{
		"FIRN_CONFIG": "firn.yaml", "FIRN_ETCD_PASSWORD": "swordfish", "FIRN_FLUSH_INTERVAL": "100ms", "FIRN_NAME": "a7",
		"FIRN_SERVICE_HOST": "10.0.0.1", "FIRN_PORT_9092_TCP": "tcp://10.0.0.1:9092",
	}
	args := []string{"agent", "--check-config", "--flush-interval", "50ms", "--auto-create-topics", "--request-bytes", "64MiB"}
	r := with(t, environment, args...)
	if r.code != exitOK || r.errOut != "" {
		t.Fatalf("%+v", r)
	}
	var given strings.Builder
	for line := range strings.Lines(r.out) {
		fields := strings.Fields(line)
		if fields[len(fields)-1] != "default" || fields[0] == "connection-in-flight-bytes" { // it follows --request-bytes
			given.WriteString(strings.Join(fields, " ") + "\n")
		}
	}
	golden(t, want, given.String())
	var report checkReport
	j := with(t, environment, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(j.out), &report); err != nil || !report.Valid || len(report.Settings)+2 != strings.Count(r.out, "\n") {
		t.Errorf("%v: %+v", err, report)
	}
	if strings.Contains(r.out+j.out, "swordfish") {
		t.Error("the password was printed")
	}
	entries, err := os.ReadDir(".")
	if err != nil || len(entries) != 1 {
		t.Errorf("the check left something behind: %v, %v", entries, err)
	}
}

// The example in docs is one that works.
func TestTheExampleIsValid(t *testing.T) {
	path, err := filepath.Abs("../../docs/firn.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if r := with(t, nil, "agent", "--config", path, "--check-config"); r.code != exitOK {
		t.Errorf("%+v", r)
	}
}

func TestRulesAcrossSettings(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, content := range map[string]string{"empty": "\n", "two-lines": "a\nb\n", "password": "p\r\n"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca := certtest.NewAuthority(t)
	pair := ca.Client(t, "firn")
	agent := "agent --bucket mem:// --etcd "
	for _, tt := range []struct {
		line string
		env  string // name=value
		want string // "" where it is valid
	}{
		{"dev", "", ""},
		{"agent --etcd h:1", "", "bucket is not set"},
		{"agent", "FIRN_BUCKET=mem://", "etcd is not set"},
		{agent + "h:1", "", ""},
		{agent + "h", "", `--etcd: "h" is not host:port`},
		{agent + "h:0", "", "has no port from 1"},
		{agent + "https://h:1,http://i:1", "", `"http://i:1" is without TLS and "https://h:1" with it`},
		{agent + "https://h:1,i:1", "", `"i:1" is without TLS`},
		{agent + "h:1,https://u:hunter2@h:1", "", `--etcd: "https://…@h:1" holds credentials`},
		{"agent --etcd h:1 --bucket s3://u:hunter2@snow?region=x", "", "holds credentials"},
		{agent + "http://h:1 --etcd-ca-file " + ca.File, "", "speak without TLS"},
		{agent + "h:1 --etcd-ca-file " + ca.File, "", ""},
		{agent + "h:1 --etcd-ca-file empty", "", "holds no certificate"},
		{agent + "h:1 --etcd-cert-file " + pair.Cert, "", "--etcd-cert-file: needs its key"},
		{agent + "h:1 --etcd-key-file " + pair.Key, "", "--etcd-key-file: needs its certificate"},
		{agent + "h:1 --etcd-cert-file " + pair.Cert + " --etcd-key-file " + pair.Key, "", ""},
		{agent + "h:1 --etcd-insecure-skip-verify --etcd-server-name x", "", "takes any certificate"},
		{agent + "h:1 --etcd-username u", "", "needs a password"},
		{agent + "h:1 --etcd-username u --etcd-password p", "", "unknown flag: --etcd-password"},
		{agent + "h:1 --etcd-username u", "FIRN_ETCD_PASSWORD=p", ""},
		{agent + "h:1", "FIRN_ETCD_PASSWORD=p", "environment FIRN_ETCD_PASSWORD: whose password"},
		{agent + "h:1 --etcd-password-file password", "", "--etcd-password-file: whose password"},
		{agent + "h:1 --etcd-username u --etcd-password-file password", "", ""},
		{agent + "h:1 --etcd-username u --etcd-password-file password", "FIRN_ETCD_PASSWORD=p", "is given twice"},
		{agent + "h:1 --etcd-username u --etcd-password-file empty", "", "empty is empty"},
		{agent + "h:1 --etcd-username u --etcd-password-file two-lines", "", "more than one line"},
		{agent + "h:1 --etcd-username u --etcd-password-file missing", "", "no such file"},
		{agent + "h:1 --kafka :9092", "", "advertise is not set"},
		{agent + "h:1 --kafka [::]:9092", "", "advertise is not set"},
		{agent + "h:1 --advertise-mode proxy", "", "advertise is not set: --advertise-mode proxy sends clients to a load balancer"},
		{agent + "h:1 --advertise-mode proxy --advertise lb:1 --internal :9093", "", "advertise-internal is not set"},
		{agent + "h:1 --advertise-mode proxy --advertise lb:1 --kafka :9092", "", "advertise-internal is not set"},
		{agent + "h:1 --advertise-mode both", "", "advertise-mode"},
		{agent + "h:1 --kafka :9092 --advertise a:0", "", "has no port from 1"},
		{agent + "h:1 --kafka 0.0.0.0:9092 --advertise :9092", "", "has no host"},
		{agent + "h:1 --cluster a/b", "", "--etcd-prefix"},
		{agent + "h:1 --etcd-prefix x/", "", "must start with a slash"},
		{agent + "h:1 --upload-retry-min 1m --upload-retry-max 1s", "", "retry max 1s is below retry min 1m0s"},
		{agent + "h:1 --data-dir empty", "", "is a file"},
		{agent + "h:1 --flush-intervall 1s", "", "did you mean flush-interval?"},
		{"dev --etcd-ca-file x", "", "has no effect without --etcd"},
		{"dev --memory --data-dir x", "", "--data-dir: does not go with --memory"},
		{"dev --bucket file://empty", "", `"empty" stands where a host would`},
		{"metastore status --bucket mem://", "", "etcd is not set"},
		{"metastore verify --bucket mem:// --etcd h:1 --etcd-username u", "", "needs a password"},
	} {
		args := strings.Fields(tt.line)
		if args[0] != "metastore" {
			args = append(args, "--check-config")
		}
		name, value, _ := strings.Cut(tt.env, "=")
		r := with(t, map[string]string{name: value}, args...)
		switch {
		case tt.want == "" && r.code != exitOK:
			t.Errorf("%s: %+v", tt.line, r)
		case tt.want != "" && (r.code != exitUsage || !strings.Contains(r.errOut, tt.want) || strings.Count(r.errOut, "\n") != 1):
			t.Errorf("%s: want one line with %q: %+v", tt.line, tt.want, r)
		}
		if strings.Contains(r.out+r.errOut, "hunter2") {
			t.Errorf("%s: the password was printed: %+v", tt.line, r)
		}
	}
}

// A file that cannot be read is one problem: what it may have said is not called missing.
func TestAnUnreadableFileIsOneProblem(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "firn.yaml")
	if err := os.WriteFile(broken, []byte("kafka: 0.0.0.0:9092\n\tbucket: mem://\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{broken: broken + ":2: is not YAML", "/does/not/exist": "--config: open /does/not/exist"} {
		if r := with(t, nil, "agent", "--config", path); r.code != exitUsage || strings.Count(r.errOut, "\n") != 1 || !strings.Contains(r.errOut, want) {
			t.Errorf("%s: want one line with %q: %+v", path, want, r)
		}
	}
}

func TestLogFormat(t *testing.T) {
	f := dev(t, "--memory", "--log-format", "json")
	f.ready()
	if code := f.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	count := 0
	for line := range strings.Lines(f.errs.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["msg"] == nil {
			t.Errorf("%v: %s", err, line)
		}
		for _, name := range []string{"incarnation", "took", "flush_interval"} {
			if _, text := fields[name].(string); fields[name] != nil && !text {
				t.Errorf("%s is no text: %s", name, line)
			}
		}
		count++
	}
	if count == 0 {
		t.Error("nothing was logged")
	}
}

func TestLogValuesAreTheSameInEveryForm(t *testing.T) {
	var out bytes.Buffer
	logger, err := (&serving{level: "info", format: "json"}).logger(env{Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	logger.Warn("m", "topic", entry.UUID{0xab}, "took", 1500*time.Millisecond, "error", os.ErrNotExist, "n", 3, "on", true)
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if at, err := time.Parse(time.RFC3339, got["time"].(string)); err != nil || at.IsZero() {
		t.Errorf("time %v, %v", got["time"], err)
	}
	delete(got, "time")
	want := map[string]any{"level": "WARN", "msg": "m", "topic": "ab" + strings.Repeat("0", 30), "took": "1.5s", "error": "file does not exist", "n": 3.0, "on": true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHelpHasEveryFlagInItsGroup(t *testing.T) {
	r := execute(t.Context(), "", "", "agent", "--help")
	for _, want := range []string{"\nProducing:\n", "--flush-interval duration", "(default 250ms)", "--segment-bytes bytes", "(default 8MiB)", "\nOther flags:\n", "--check-config"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is not in the help", want)
		}
	}
	if strings.Contains(r.out, "--etcd-password ") || strings.Contains(r.out, "--memory ") {
		t.Error("flags that should not be there")
	}
}

// An agent on an etcd that asks for TLS, a certificate and a password, all from a configuration file; and the refusals of one.
func TestAgentOnASecuredEtcd(t *testing.T) {
	dir := t.TempDir()
	ca := certtest.NewAuthority(t)
	site, client := ca.Server(t, "127.0.0.1"), ca.Client(t, "agent")
	server, err := etcdembed.Start(t.Context(), etcdembed.Options{
		Dir: filepath.Join(dir, "etcd"), CertFile: site.Cert, KeyFile: site.Key, ClientCAFile: ca.File, UnsafeNoFsync: true, PasswordCost: 4,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	restrict(t, server, "/firn/main/", "swordfish")
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := file("firn.yaml", "etcd: "+server.Endpoints()[0]+"\ncluster: main\netcd-ca-file: "+ca.File+"\netcd-cert-file: "+client.Cert+
		"\netcd-key-file: "+client.Key+"\netcd-username: firn\netcd-password-file: "+file("password", "swordfish\n")+
		"\nbucket: file://"+filepath.Join(dir, "bucket")+"\ndata-dir: "+filepath.Join(dir, "agent")+"\nkafka: 127.0.0.1:0\nhttp: 127.0.0.1:0\nname: a1\netcd-dial-timeout: 1m\n")

	f := start(t, "agent", "--config", config)
	select {
	case <-f.out.wrote("is ready"):
	case code := <-f.code:
		t.Fatalf("ended with %d: %s", code, f.errs)
	case <-time.After(2 * time.Minute):
		t.Fatalf("not ready: %s", f.errs)
	}
	said := f.out.String()
	_, at, _ := strings.Cut(said, "http ")
	resp, err := http.Get(strings.TrimSpace(at) + "/readyz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", resp, err)
	}
	if err == nil {
		_ = resp.Body.Close()
	}
	if got := must(t, "", "metastore", "status", "--config", config); !strings.Contains(got, "a1") {
		t.Errorf("status: %s", got)
	}
	if code := f.stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, f.errs)
	}
	if strings.Contains(said+f.errs.String(), "swordfish") {
		t.Error("the password was printed")
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"wrong password":     {[]string{"--etcd-password-file", file("wrong", "x")}, `check user "firn"`},
		"wrong authority":    {[]string{"--etcd-dial-timeout", "1s", "--etcd-ca-file", certtest.NewAuthority(t).File}, "name the right one with --etcd-ca-file"},
		"another prefix":     {[]string{"--cluster", "other"}, `grant the role of user "firn" readwrite on every key below /firn/other/`},
		"another name of it": {[]string{"--etcd-dial-timeout", "1s", "--etcd-server-name", "etcd.example"}, "--etcd-server-name"},
	} {
		code, _, stderr := once(t, "", append([]string{"agent", "--config", config}, tt.args...)...)
		if code != exitDenied || !strings.Contains(stderr, tt.want) || !strings.Contains(stderr, "metastore refused") {
			t.Errorf("%s: exit code %d: %s", name, code, stderr)
		}
	}
}

// restrict turns users on, with one named firn who may do everything below prefix and nothing else.
func restrict(t *testing.T, server *etcdembed.Server, prefix, password string) {
	t.Helper()
	c, err := server.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	const readWrite = 2
	ctx := t.Context()
	for i, step := range []func() error{
		func() error { _, err := c.RoleAdd(ctx, "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.RoleAdd(ctx, "firn"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "firn", prefix, strings.TrimSuffix(prefix, "/")+"0", readWrite)
			return err
		},
		func() error { _, err := c.UserAdd(ctx, "firn", password); return err },
		func() error { _, err := c.UserGrantRole(ctx, "firn", "firn"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}
