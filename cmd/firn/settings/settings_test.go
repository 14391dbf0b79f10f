package settings_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/firnlog/firn/cmd/firn/settings"
)

// values are one place for every type.
type values struct {
	count, size int64
	every       time.Duration
	name, path  string
	list        []string
	on          bool
	word        string
	secret      string
	secretFile  string
}

func declare(v *values) *settings.Set {
	*v = values{name: "start", every: time.Second, word: "a", list: nil}
	s := settings.New()
	s.Group("One")
	s.Number(settings.Number{Name: "count", Help: "a number", Default: 7, Min: 1, Max: 100, Get: func() int64 { return v.count }, Set: func(n int64) { v.count = n }})
	s.Number(settings.Number{Name: "max-size", Help: "a size", Kind: settings.Bytes, Default: 64 << 20, Min: 1 << 10, Max: 1 << 40, Get: func() int64 { return v.size }, Set: func(n int64) { v.size = n }})
	s.Period(&v.every, "every", time.Millisecond, time.Hour, "a duration")
	s.Text(&v.name, "name", "a text")
	s.Group("Two")
	s.Path(&v.path, "path", "a path")
	s.List(&v.list, "list", "a list").Check(func(x string) error {
		if x == "bad" {
			return fmt.Errorf("is bad")
		}
		return nil
	})
	s.Flag(&v.on, "on", "a switch")
	s.Choice(&v.word, "word", "a choice", "a", "bee")
	s.Secret(&v.secret, "secret", "a secret")
	s.Path(&v.secretFile, "secret-file", "a file with the secret")
	return s
}

// given is what the sources hold.
type given struct {
	flags []string
	env   map[string]string
	file  string
}

func (g given) resolve(t *testing.T, s *settings.Set) (warnings, problems []string) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	s.Flags(flags)
	args := slices.Clone(g.flags)
	if g.file != "" {
		path := filepath.Join(t.TempDir(), "firn.yaml")
		if err := os.WriteFile(path, []byte(g.file), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Chdir(filepath.Dir(path))
		args = append(args, "--config", "firn.yaml")
	}
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	var environ []string
	for k, v := range g.env {
		environ = append(environ, k+"="+v)
	}
	warnings, errs := s.Resolve(settings.Environment{
		Getenv: func(k string) string { return g.env[k] }, Environ: environ, Known: []string{"FIRN_BROKERS"},
	})
	for _, err := range errs {
		problems = append(problems, err.Error())
	}
	return warnings, problems
}

// A flag beats the environment, that the file, that the default; for every type.
func TestPrecedence(t *testing.T) {
	for _, tt := range []struct {
		name                string
		def, yaml, env, arg string // as written; def as shown
		yamlShown, envShown string // as shown, where that differs
	}{
		{name: "count", def: "7", yaml: "8", env: "9", arg: "10"},
		{name: "max-size", def: "64MiB", yaml: "2048", yamlShown: "2KiB", env: "1 GiB", envShown: "1GiB", arg: "3MiB"},
		{name: "every", def: "1s", yaml: "2000ms", yamlShown: "2s", env: "10m", arg: "250ms"},
		{name: "name", def: "start", yaml: "y", env: "e", arg: "f"},
		{name: "path", def: "", yaml: "/y", env: "./e", arg: "f"},
		{name: "list", def: "", yaml: "[a, b]", yamlShown: "a,b", env: "c, d", envShown: "c,d", arg: "e,f"},
		{name: "on", def: "false", yaml: "true", env: "0", envShown: "false", arg: "true"},
		{name: "word", def: "a", yaml: "bee", env: "a", arg: "bee"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			shown := func(as, written string) string {
				if as != "" {
					return as
				}
				return written
			}
			variable := "FIRN_" + strings.ToUpper(strings.ReplaceAll(tt.name, "-", "_"))
			steps := []struct {
				g             given
				value, source string
			}{
				{given{}, tt.def, "default"},
				{given{file: "# first\n" + tt.name + ": " + tt.yaml}, shown(tt.yamlShown, tt.yaml), "firn.yaml:2 " + tt.name},
				{given{file: tt.name + ": " + tt.yaml, env: map[string]string{variable: tt.env}}, shown(tt.envShown, tt.env), "environment " + variable},
				{given{file: tt.name + ": " + tt.yaml, env: map[string]string{variable: tt.env}, flags: []string{"--" + tt.name + "=" + tt.arg}}, tt.arg, "--" + tt.name},
				{given{env: map[string]string{variable: ""}}, tt.def, "default"}, // empty is not set
			}
			for i, step := range steps {
				var v values
				s := declare(&v)
				if warnings, problems := step.g.resolve(t, s); len(problems)+len(warnings) > 0 {
					t.Fatalf("step %d: %v %v", i, warnings, problems)
				}
				x := s.Lookup(tt.name)
				if x.Value() != step.value || x.Origin() != step.source {
					t.Errorf("step %d: %q from %q, want %q from %q", i, x.Value(), x.Origin(), step.value, step.source)
				}
			}
		})
	}
}

func TestEveryProblemOfEverySourceIsTold(t *testing.T) {
	var v values
	g := given{
		flags: []string{"--count", "0", "--every", "5", "--list", "a,,b", "--on=maybe"},
		env:   map[string]string{"FIRN_MAX_SIZE": "12parsecs", "FIRN_WORD": "be", "FIRN_LIST": "bad", "FIRN_EVERY": "2h"},
		file:  "count: many\nmax-sise: 1\nname:\nname: x\npath: {a: b}\nmax:\n  size: 3\nword: [a]\nlist: []\non: *x\n",
	}
	// The alias has no anchor: the library refuses the whole file, with the line.
	_, problems := g.resolve(t, declare(&v))
	if !slices.ContainsFunc(problems, func(p string) bool {
		return strings.HasPrefix(p, "firn.yaml") && strings.Contains(p, "is not YAML")
	}) {
		t.Errorf("%q", problems)
	}
	g.file = strings.Replace(g.file, "on: *x", "every: &x 1s\non: *x\nconfig: other.yaml\nsecret: hunter2", 1)
	_, problems = g.resolve(t, declare(&v))
	want := []string{
		`firn.yaml:2 max-sise: unknown setting; did you mean max-size?`,
		`firn.yaml:3 name: has no value; give one, or remove the line`,
		`firn.yaml:4 name: is given before, in line 3; keep one of the two`,
		`firn.yaml:5 path: takes one value (path), not keys of its own`,
		`firn.yaml:6 max: keys are not nested; write max-size: … at the top level`,
		`firn.yaml:8 word: takes one value (a|bee), not a list`,
		`firn.yaml:9 list: names nothing; leave it out`,
		`firn.yaml:11 on: aliases are not supported; write the value out`,
		`firn.yaml:12 config: a configuration file cannot name another; use --config`,
		`firn.yaml:13 secret: secrets are not taken from the configuration file; set FIRN_SECRET in the environment, or put it into a file and name that with secret-file`,
		`firn.yaml:1 count: "many" is not a whole number`,
		`--count: "0" must lie between 1 and 100`,
		`environment FIRN_MAX_SIZE: "12parsecs" is not a size; write a whole number with its unit, such as 64MiB, 1GiB or 500MB`,
		`environment FIRN_EVERY: "2h" must lie between 1ms and 1h`,
		`--every: "5" is not a duration; write a number with its unit, such as 250ms, 30s or 10m`,
		`environment FIRN_LIST: "bad" is bad`,
		`--list: "a,,b" has an empty element`,
		`--on: "maybe" is neither true nor false`,
		`environment FIRN_WORD: "be" is not one of a, bee; did you mean bee?`,
	}
	if !slices.Equal(problems, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(problems, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestFilesThatAreNone(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"a list":          {"- a\n- b\n", "firn.yaml:1: is not a list of settings"},
		"a word":          {"hello", "firn.yaml:1: is not a list of settings"},
		"bad indentation": {"count: 1\n  name: x\n", "firn.yaml:2: is not YAML: mapping values are not allowed"},
		"a tab":           {"count: 1\n\tname: x\n", "is not YAML"},
		"unclosed":        {"name: \"x\n", "is not YAML"},
		"two documents":   {"count: 1\n---\ncount: 2\n", "firn.yaml: holds more than one document"},
		"a compound key":  {"[a]: 1\n", "a key is a word"},
		"huge":            {strings.Repeat("# nothing\n", 110_000), "more than 1MiB"},
		"binary":          {"\x00\x01\x02", "is not YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			var v values
			if _, problems := (given{file: tt.content}).resolve(t, declare(&v)); len(problems) != 1 || !strings.Contains(problems[0], tt.want) {
				t.Errorf("%q, want %q", problems, tt.want)
			}
		})
	}
	for name, content := range map[string]string{"comments": "# nothing\n", "nothing but a start": "---\n"} {
		var v values
		if _, problems := (given{file: content}).resolve(t, declare(&v)); len(problems) > 0 {
			t.Errorf("%s: %q", name, problems)
		}
	}
	var v values
	_, problems := given{env: map[string]string{"FIRN_CONFIG": "/does/not/exist"}}.resolve(t, declare(&v))
	if len(problems) != 1 || !strings.HasPrefix(problems[0], "environment FIRN_CONFIG: open /does/not/exist") {
		t.Errorf("missing file: %q", problems)
	}
}

func TestVariablesThatAreNoSettings(t *testing.T) {
	var v values
	g := given{env: map[string]string{
		"FIRN_CUONT": "1", "FIRN_BROKERS": "h:1", "FIRN_OTHER_THING": "x", "OTHER": "y",
		"FIRN_SERVICE_HOST": "10.0.0.1", "FIRN_PORT": "tcp://10.0.0.1:9092", "FIRN_PORT_9092_TCP_ADDR": "10.0.0.1", "FIRN_KAFKA_SERVICE_PORT_HTTP": "1",
	}}
	warnings, problems := g.resolve(t, declare(&v))
	want := []string{
		"environment variable FIRN_CUONT is no setting and has no effect; did you mean FIRN_COUNT?",
		"environment variable FIRN_OTHER_THING is no setting and has no effect",
	}
	if len(problems) > 0 || !slices.Equal(warnings, want) {
		t.Errorf("%q, %q", problems, warnings)
	}
}

// A secret comes from the environment and goes nowhere.
func TestSecrets(t *testing.T) {
	var v values
	s := declare(&v)
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	s.Flags(flags)
	if flags.Lookup("secret") != nil {
		t.Error("a secret is a flag")
	}
	if _, problems := (given{env: map[string]string{"FIRN_SECRET": " hunter2 \n"}}).resolve(t, s); len(problems) > 0 || v.secret != " hunter2 " {
		t.Fatalf("%q, %q", problems, v.secret)
	}
	var out strings.Builder
	if err := s.Print(&out); err != nil {
		t.Fatal(err)
	}
	if err := s.Markdown(&out); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&out, "%+v %v", s.Effective(), s.Problem("secret", "is wrong"))
	if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), "(set, not shown)") {
		t.Error(out.String())
	}
}

func TestNumbersReadAsTheyAreWritten(t *testing.T) {
	for _, tt := range []struct {
		kind  settings.Kind
		text  string
		value int64
		again string
	}{
		{settings.Bytes, "0", 0, "0B"},
		{settings.Bytes, "1", 1, "1B"},
		{settings.Bytes, "500MB", 500_000_000, "500000000B"},
		{settings.Bytes, "1536MiB", 1536 << 20, "1536MiB"},
		{settings.Bytes, "8 GiB", 8 << 30, "8GiB"},
		{settings.Bytes, "2PiB", 2 << 50, "2PiB"},
		{settings.Duration, "90s", int64(90 * time.Second), "1m30s"},
		{settings.Duration, "1h", int64(time.Hour), "1h"},
		{settings.Duration, "1h0m30s", int64(time.Hour + 30*time.Second), "1h0m30s"},
		{settings.Duration, "1.5s", int64(1500 * time.Millisecond), "1.5s"},
		{settings.Count, "42", 42, "42"},
	} {
		got, err := settings.Parse(tt.kind, tt.text)
		if err != nil || got != tt.value {
			t.Errorf("%s: %d, %v", tt.text, got, err)
			continue
		}
		again := settings.Format(tt.kind, got)
		if back, err := settings.Parse(tt.kind, again); err != nil || back != got || again != tt.again {
			t.Errorf("%s: written as %s, read as %d, %v", tt.text, again, back, err)
		}
	}
	for _, bad := range []string{"", "x", "1.5GiB", "64Mi", "64M", "-", "9999999PiB", "1 2", "0x10"} {
		if v, err := settings.Parse(settings.Bytes, bad); err == nil {
			t.Errorf("%q is %d bytes", bad, v)
		}
	}
}

// Whatever stands in a file, it is refused or taken, with the file named in every problem; nothing panics.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"count: 1\nlist: [a, b]\n", "a: &x 1\nb: *x\n", "? [a]\n: b\n", "<<: {count: 1}\n", "--- !!map\ncount: !!int 5\n", "- a\n", "{", "\t", "count:\n  - 1\n",
		"# only a comment\n---\n...\n", "\xff\xfe", "every: 1s # one\nevery: 2s\n", "on: !foo true\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var v values
		for _, err := range declare(&v).CheckFile("firn.yaml", []byte(body)) {
			if !strings.HasPrefix(err.Error(), "firn.yaml") {
				t.Errorf("%v", err)
			}
		}
	})
}
