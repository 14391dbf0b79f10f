package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// fileBytesMax bounds a configuration file; ours have a few kilobytes.
const fileBytesMax = 1 << 20

// assignment is a value given somewhere.
type assignment struct {
	where  string
	values []string
}

// text is the value for a problem.
func (a assignment) text() string { return strings.Join(a.values, ",") }

// readFile returns what a configuration file gives, by name, and every problem of its form.
func (s *Set) readFile(path string) (map[string]assignment, []error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, []error{err}
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	switch {
	case err != nil:
		return nil, []error{err}
	case len(body) > fileBytesMax:
		return nil, []error{fmt.Errorf("%s: more than %s; it is no configuration of firn", path, Format(Bytes, fileBytesMax))}
	}
	return s.parseFile(path, body)
}

// yamlLine finds the line in a message of the YAML library.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func (s *Set) parseFile(path string, body []byte) (map[string]assignment, []error) {
	decoder := yaml.NewDecoder(bytes.NewReader(body))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		at := path
		what := err.Error()
		if m := yamlLine.FindStringSubmatch(what); m != nil {
			what = m[2]
			if m[1] != "" {
				at += ":" + m[1]
			}
		}
		return nil, []error{fmt.Errorf("%s: is not YAML: %s", at, what)}
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, []error{fmt.Errorf("%s: holds more than one document; keep the one", path)}
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, []error{fmt.Errorf("%s:%d: is not a list of settings; write one key: value a line", path, root.Line)}
	}
	var problems []error
	given := make(map[string]assignment)
	lines := make(map[string]int)
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		where := fmt.Sprintf("%s:%d %s", path, key.Line, key.Value)
		if before, twice := lines[key.Value]; twice {
			problems = append(problems, fmt.Errorf("%s: is given before, in line %d; keep one of the two", where, before))
			continue
		}
		lines[key.Value] = key.Line
		values, err := s.fileValue(key, value)
		if err != nil {
			if x := s.byName[key.Value]; x != nil {
				x.tried = true
			}
			problems = append(problems, fmt.Errorf("%s: %w", where, err))
			continue
		}
		given[key.Value] = assignment{where, values}
	}
	return given, problems
}

// fileValue judges the form of one key and its value; what the value says is judged later.
func (s *Set) fileValue(key, value *yaml.Node) ([]string, error) {
	x := s.byName[key.Value]
	if key.Kind != yaml.ScalarNode {
		return nil, errors.New("a key is a word")
	}
	if value.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(value.Content); i += 2 {
			if flat := key.Value + "-" + value.Content[i].Value; s.byName[flat] != nil {
				return nil, fmt.Errorf("keys are not nested; write %s: … at the top level", flat)
			}
		}
	}
	switch {
	case x == nil:
		return nil, fmt.Errorf("unknown setting%s", didYouMean(key.Value, s.names()))
	case x == s.file:
		return nil, errors.New("a configuration file cannot name another; use --config")
	case x.Secret:
		return nil, fmt.Errorf("secrets are not taken from the configuration file; set %s in the environment%s", x.Env(), s.orFile(x))
	}
	switch value.Kind {
	case yaml.ScalarNode:
		if value.Tag == "!!null" {
			return nil, errors.New("has no value; give one, or remove the line")
		}
		return []string{value.Value}, nil
	case yaml.SequenceNode:
		if !x.list {
			return nil, fmt.Errorf("takes one value (%s), not a list", x.Type)
		}
		values := []string{}
		for _, element := range value.Content {
			if element.Kind != yaml.ScalarNode || element.Tag == "!!null" {
				return nil, fmt.Errorf("element in line %d is not a text", element.Line)
			}
			values = append(values, element.Value)
		}
		if len(values) == 0 {
			return nil, errors.New("names nothing; leave it out")
		}
		return values, nil
	case yaml.MappingNode:
		return nil, fmt.Errorf("takes one value (%s), not keys of its own", x.Type)
	}
	return nil, errors.New("aliases are not supported; write the value out")
}

// orFile is the hint at the setting that names a file with the secret, where there is one.
func (s *Set) orFile(x *Setting) string {
	if f := s.byName[x.Name+"-file"]; f != nil {
		return ", or put it into a file and name that with " + f.Name
	}
	return ""
}

func (s *Set) names() []string {
	names := make([]string, len(s.all))
	for i, x := range s.all {
		names[i] = x.Name
	}
	return names
}
