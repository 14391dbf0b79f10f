package settings

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Flags adds the settings of some groups to a command line; of all groups where none is named. What a flag holds is judged by
// Resolve, so that it is told together with what is wrong elsewhere.
func (s *Set) Flags(flags *pflag.FlagSet, groups ...string) {
	for _, x := range s.all {
		if x.Secret || len(groups) > 0 && x != s.file && !slices.Contains(groups, x.Group) {
			continue
		}
		flag := flags.VarPF(&flagValue{x}, x.Name, "", x.Help)
		if x.Type == "true|false" {
			flag.NoOptDefVal = "true"
		}
	}
}

// flagValue implements pflag.Value.
type flagValue struct{ setting *Setting }

func (f *flagValue) String() string {
	if f.setting == nil { // pflag asks a zero value
		return ""
	}
	return f.setting.Default
}

func (f *flagValue) Type() string {
	if strings.Contains(f.setting.Type, "|") && f.setting.Type != "true|false" {
		return "word"
	}
	if f.setting.Type == "true|false" {
		return "bool" // pflag then leaves the word out
	}
	return f.setting.Type
}

func (f *flagValue) Set(v string) error {
	f.setting.given = append(f.setting.given, v)
	return nil
}

// Environment is what Resolve reads of the process.
type Environment struct {
	Getenv func(string) string
	// Environ are all variables as key=value; may be nil.
	Environ []string
	// Known are variables with our prefix that belong to somebody else.
	Known []string
}

// Resolve judges what every source gives and takes over what has precedence. Its errors are all problems found; warnings are
// for the log. The places of settings with a problem keep what another source or the default gave them.
func (s *Set) Resolve(env Environment) (warnings []string, problems []error) {
	flag := func(x *Setting) (assignment, bool) {
		return assignment{"--" + x.Name, x.given}, len(x.given) > 0
	}
	// An empty variable counts as not set: it is what a template without a value leaves behind.
	variable := func(x *Setting) (assignment, bool) {
		v := env.Getenv(x.Env())
		return assignment{"environment " + x.Env(), []string{v}}, v != ""
	}
	judge := func(x *Setting, source Source, a assignment) {
		x.tried = true
		apply, err := x.parse(a.values)
		if err != nil {
			value := a.text()
			if element := (elementError{}); errors.As(err, &element) {
				value = element.value
			}
			if x.Secret || x.worded {
				value = ""
			}
			problems = append(problems, problem(a.where, value, err))
			return
		}
		apply()
		x.Source, x.where = source, a.where
	}
	resolve := func(x *Setting, file map[string]assignment) {
		if a, ok := file[x.Name]; ok {
			judge(x, FromFile, a)
		}
		if a, ok := variable(x); ok {
			judge(x, FromEnvironment, a)
		}
		if a, ok := flag(x); ok {
			judge(x, FromFlag, a)
		}
	}
	resolve(s.file, nil)
	var file map[string]assignment
	if s.config != "" {
		var errs []error
		if file, errs = s.readFile(s.config); len(errs) > 0 {
			s.unread = file == nil
			for _, err := range errs {
				if len(file) == 0 && len(errs) == 1 && !strings.HasPrefix(err.Error(), s.config) {
					err = problem(s.file.where, "", err)
				}
				problems = append(problems, err)
			}
		}
	}
	for _, x := range s.all {
		if x != s.file {
			resolve(x, file)
		}
	}
	return s.strangers(env), problems
}

// injected are variables that Kubernetes sets for every service whose name starts with firn.
var injected = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)?)$|^FIRN_PORT`)

// strangers warns of variables with our prefix that are not ours.
func (s *Set) strangers(env Environment) []string {
	ours := make([]string, len(s.all))
	for i, x := range s.all {
		ours[i] = x.Env()
	}
	var warnings []string
	for _, pair := range env.Environ {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, Prefix) && !slices.Contains(ours, name) && !slices.Contains(env.Known, name) && !injected.MatchString(name) {
			warnings = append(warnings, fmt.Sprintf("environment variable %s is no setting and has no effect%s", name, didYouMean(name, ours)))
		}
	}
	slices.Sort(warnings)
	return warnings
}

// Join makes one error of problems, nil where there are none.
func Join(problems []error) error { return errors.Join(problems...) }
