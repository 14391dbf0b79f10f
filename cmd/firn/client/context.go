package client

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.yaml.in/yaml/v3"
)

// contextsVersion is the version of the contexts file that this program writes; it reads no newer one.
const contextsVersion = 1

// contextsBytesMax bounds the contexts file.
const contextsBytesMax = 1 << 20

// SASLMechanisms lists the names that a context may give.
const SASLMechanisms = "PLAIN|SCRAM-SHA-256|SCRAM-SHA-512"

// Contexts is the contexts file: named clusters, one of which may be current.
//
// Invariant: Current is empty or a key of Contexts.
type Contexts struct {
	Version  int                `yaml:"version"`
	Current  string             `yaml:"current,omitempty"`
	Contexts map[string]Context `yaml:"contexts"`
}

// Context is how to reach one cluster. It names passwords and never holds one.
type Context struct {
	Brokers []string `yaml:"brokers" json:"brokers"`
	TLS     *TLS     `yaml:"tls,omitempty" json:"tls,omitempty"`
	SASL    *SASL    `yaml:"sasl,omitempty" json:"sasl,omitempty"`
}

// TLS asks for TLS; all fields are optional. Paths are absolute, so that a context means the same from every directory.
type TLS struct {
	CA         string `yaml:"ca,omitempty" json:"ca,omitempty"`                   // PEM file, instead of the system's roots
	Cert       string `yaml:"cert,omitempty" json:"cert,omitempty"`               // PEM file of the client's own certificate
	Key        string `yaml:"key,omitempty" json:"key,omitempty"`                 // PEM file of its key
	ServerName string `yaml:"server_name,omitempty" json:"server_name,omitempty"` // what the brokers' certificate must name
}

// SASL is a user and where the password is found: in an environment variable or in a file, whose line end is not part of it.
type SASL struct {
	Mechanism    string `yaml:"mechanism" json:"mechanism"`
	User         string `yaml:"user" json:"user"`
	PasswordEnv  string `yaml:"password_env,omitempty" json:"password_env,omitempty"`
	PasswordFile string `yaml:"password_file,omitempty" json:"password_file,omitempty"`
}

// ContextsPath returns where contexts are kept: $XDG_CONFIG_HOME/firn/contexts.yaml, by default below ~/.config. It is
// empty where the environment names neither a configuration nor a home directory.
func ContextsPath(getenv func(string) string) string {
	if dir := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) { // a relative one is to be ignored, says the specification
		return filepath.Join(dir, "firn", "contexts.yaml")
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".config", "firn", "contexts.yaml")
	}
	return ""
}

// LoadContexts reads the contexts file. One that does not exist has no contexts.
func LoadContexts(path string) (Contexts, error) {
	empty := Contexts{Version: contextsVersion, Contexts: map[string]Context{}}
	if path == "" {
		return empty, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("read contexts: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, contextsBytesMax+1))
	if err != nil {
		return empty, fmt.Errorf("read contexts: %w", err)
	}
	if len(content) > contextsBytesMax {
		return empty, fmt.Errorf("contexts file %s: more than %d bytes, it is not one of ours; move it away", path, contextsBytesMax)
	}
	c, err := parseContexts(content)
	if err != nil {
		return empty, fmt.Errorf("contexts file %s: %w; mend it, or move it away and use firn context set", path, err)
	}
	return c, nil
}

// goType is what the YAML library adds for who wrote the program.
var goType = regexp.MustCompile(` in type \S+`)

// parseContexts reads the content of a contexts file: version first, so that a newer one is told as that.
func parseContexts(content []byte) (Contexts, error) {
	var head struct {
		Version int `yaml:"version"`
	}
	if err := yaml.Unmarshal(content, &head); err != nil {
		return Contexts{}, err
	}
	switch {
	case head.Version == 0:
		return Contexts{}, errors.New("no version")
	case head.Version > contextsVersion:
		return Contexts{}, fmt.Errorf("version %d, a newer firn wrote it", head.Version)
	}
	c := Contexts{}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		return Contexts{}, errors.New(goType.ReplaceAllString(err.Error(), ""))
	}
	if c.Contexts == nil {
		c.Contexts = map[string]Context{}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Contexts)) {
		if err := errors.Join(CheckContextName(name), c.Contexts[name].Validate()); err != nil {
			errs = append(errs, fmt.Errorf("context %q: %w", name, err))
		}
	}
	if _, ok := c.Contexts[c.Current]; c.Current != "" && !ok {
		errs = append(errs, fmt.Errorf("the current context %q is not in it", c.Current))
	}
	return c, errors.Join(errs...)
}

// Save writes the contexts file in one step: a reader, or a crash, sees the old file or the new one. Only its owner can
// read it.
func (c Contexts) Save(path string) error {
	if path == "" {
		return fmt.Errorf("%w: there is no place for contexts: set HOME or XDG_CONFIG_HOME", ErrUsage)
	}
	c.Version = contextsVersion
	content, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	f, err := os.CreateTemp(dir, ".contexts-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write contexts: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// Get returns a context by name. Errors wrap ErrNotFound.
func (c Contexts) Get(name string) (Context, error) {
	x, ok := c.Contexts[name]
	if !ok {
		return x, fmt.Errorf("context %q: %w; see firn context list, or make it with firn context set %s", name, ErrNotFound, name)
	}
	return x, nil
}

var contextName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// CheckContextName says whether a context may have this name. Errors wrap ErrUsage.
func CheckContextName(name string) error {
	if !contextName.MatchString(name) {
		return fmt.Errorf("%w: context name %q: use 1 to 64 letters, digits, dots, dashes or underscores", ErrUsage, name)
	}
	return nil
}

// Validate returns every problem of a context that shows without opening a file. Errors wrap ErrUsage.
func (c Context) Validate() error {
	_, err := Brokers(c.Brokers)
	errs := []error{err}
	if t := c.TLS; t != nil && (t.Cert == "") != (t.Key == "") {
		errs = append(errs, fmt.Errorf("%w: TLS: a client certificate and its key go together, give both or none", ErrUsage))
	}
	if s := c.SASL; s != nil {
		if !slices.Contains(strings.Split(SASLMechanisms, "|"), s.Mechanism) {
			errs = append(errs, fmt.Errorf("%w: SASL: mechanism %q is unknown, choose %s", ErrUsage, s.Mechanism, SASLMechanisms))
		}
		if s.User == "" {
			errs = append(errs, fmt.Errorf("%w: SASL: no user", ErrUsage))
		}
		if (s.PasswordEnv == "") == (s.PasswordFile == "") {
			errs = append(errs, fmt.Errorf("%w: SASL: name one place of the password, an environment variable or a file", ErrUsage))
		}
	}
	return errors.Join(errs...)
}

// Security returns the client options of a context's TLS and SASL. It opens the files and reads the password.
func (c Context) Security(getenv func(string) string) ([]kgo.Opt, error) {
	var opts []kgo.Opt
	if c.TLS != nil {
		config, err := c.TLS.config()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(config))
	}
	if s := c.SASL; s != nil {
		password, err := s.password(getenv)
		if err != nil {
			return nil, err
		}
		switch s.Mechanism {
		case "PLAIN":
			opts = append(opts, kgo.SASL(plain.Auth{User: s.User, Pass: password}.AsMechanism()))
		case "SCRAM-SHA-256":
			opts = append(opts, kgo.SASL(scram.Auth{User: s.User, Pass: password}.AsSha256Mechanism()))
		case "SCRAM-SHA-512":
			opts = append(opts, kgo.SASL(scram.Auth{User: s.User, Pass: password}.AsSha512Mechanism()))
		}
	}
	return opts, nil
}

func (t *TLS) config() (*tls.Config, error) {
	config := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("TLS: read the CA certificates: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("TLS: %s holds no certificate in PEM", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("TLS: load the client certificate %s with key %s: %w", t.Cert, t.Key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (s *SASL) password(getenv func(string) string) (string, error) {
	if s.PasswordEnv != "" {
		password := getenv(s.PasswordEnv)
		if password == "" {
			return "", fmt.Errorf("%w: SASL: the environment variable %s with the password of %s is not set", ErrUsage, s.PasswordEnv, s.User)
		}
		return password, nil
	}
	content, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("SASL: read the password of %s: %w", s.User, err)
	}
	password := strings.TrimRight(string(content), "\r\n")
	if password == "" {
		return "", fmt.Errorf("%w: SASL: %s with the password of %s is empty", ErrUsage, s.PasswordFile, s.User)
	}
	return password, nil
}
