package settings

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Source is where a value comes from.
type Source uint8

// Sources, in rising precedence.
const (
	FromDefault Source = iota
	FromFile
	FromEnvironment
	FromFlag
)

// Prefix starts the names of our environment variables.
const Prefix = "FIRN_"

// Setting is one thing that an operator can set. The fields are for reading once it is declared.
type Setting struct {
	Name    string
	Group   string
	Help    string
	Type    string // for people: bytes, duration, number, text, list, path, secret, or the words allowed as a|b
	Default string // as an operator would write it; "" where there is none
	Bounds  string // "1ms to 1m"; "" where there are none
	Secret  bool
	Source  Source // once resolved

	list   bool
	worded bool
	where  string // of the value in force, for problems
	// parse judges a value; apply takes it over.
	parse func(values []string) (apply func(), err error)
	show  func() string
	given []string // by flags, raw
	tried bool     // some source gave a value, good or bad
}

// Env is the name of the setting's environment variable.
func (s *Setting) Env() string {
	return Prefix + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// Value is the value in force, as an operator would write it. Secrets show only whether they are set.
func (s *Setting) Value() string {
	if s.Secret && s.show() != "" {
		return "(set, not shown)"
	}
	return s.show()
}

// Origin is where the value in force was given.
func (s *Setting) Origin() string {
	if s.Source == FromDefault {
		return "default"
	}
	return s.where
}

// Check adds a rule for the setting's text; it applies to every value given, wherever, but not to the default.
func (s *Setting) Check(rule func(string) error) *Setting {
	parse := s.parse
	s.parse = func(values []string) (func(), error) {
		apply, err := parse(values)
		if err != nil {
			return nil, err
		}
		if s.list {
			values = split(values)
		}
		for _, v := range values {
			if err := rule(v); err != nil {
				return nil, elementError{v, err}
			}
		}
		return apply, nil
	}
	return s
}

// Worded says that the errors of Check name the value themselves.
func (s *Setting) Worded() *Setting {
	s.worded = true
	return s
}

// elementError is about one element of a list, or the one value.
type elementError struct {
	value string
	err   error
}

func (e elementError) Error() string { return e.err.Error() }
func (e elementError) Unwrap() error { return e.err }

// Set is the settings of one command. It is not safe for concurrent use.
type Set struct {
	all    []*Setting
	byName map[string]*Setting
	group  string
	config string // path of the file; a setting itself
	file   *Setting
	unread bool // the file could not be read as a whole
}

// New returns a set that has one setting: which file to read.
func New() *Set {
	s := &Set{byName: make(map[string]*Setting)}
	s.Group("Configuration")
	s.file = s.Path(&s.config, "config", "YAML file with settings, one key: value a line")
	return s
}

// Group starts a heading: what is declared next stands below it.
func (s *Set) Group(name string) { s.group = name }

// All are the settings in the order of their declaration, those of a group together.
func (s *Set) All() []*Setting { return s.all }

// Lookup returns the setting of a name, or nil.
func (s *Set) Lookup(name string) *Setting { return s.byName[name] }

// Groups are the headings in the order of their first use.
func (s *Set) Groups() []string {
	var groups []string
	seen := make(map[string]bool)
	for _, x := range s.all {
		if !seen[x.Group] {
			seen[x.Group] = true
			groups = append(groups, x.Group)
		}
	}
	return groups
}

func (s *Set) declare(x *Setting) *Setting {
	x.Group = s.group
	x.Default = x.show()
	if x.Secret {
		x.Default = ""
	}
	if s.byName[x.Name] != nil {
		panic(fmt.Sprintf("setting %s is declared twice", x.Name))
	}
	s.byName[x.Name] = x
	at := len(s.all)
	for i, other := range s.all {
		if other.Group == x.Group {
			at = i + 1
		}
	}
	s.all = slices.Insert(s.all, at, x)
	return x
}

// Given says whether an operator set it, wherever, also to what was refused.
func (s *Set) Given(name string) bool { return s.byName[name].tried }

// Problem is an error about the value of a setting that is in force, naming where it was given.
func (s *Set) Problem(name, format string, args ...any) error {
	x := s.byName[name]
	where := x.where
	if where == "" {
		where = x.Name
	}
	return problem(where, "", fmt.Errorf(format, args...))
}

// Missing is the problem of a setting that has to be given; none where the file could not be read, for it may stand there.
func (s *Set) Missing(name, why string) []error {
	if s.unread {
		return nil
	}
	x := s.byName[name]
	return []error{fmt.Errorf("%s is not set: %s; give --%s, %s in the environment, or %s in the file that --config names", name, why, name, x.Env(), name)}
}

// credentials are what may stand in front of the host of a URL. They do not belong there, and are not printed when they do.
var credentials = regexp.MustCompile(`://.*@`)

// problem words every problem the same way.
func problem(where, value string, err error) error {
	value = credentials.ReplaceAllString(value, "://…@")
	if value == "" {
		return fmt.Errorf("%s: %w", where, err)
	}
	return fmt.Errorf("%s: %q %w", where, value, err)
}
