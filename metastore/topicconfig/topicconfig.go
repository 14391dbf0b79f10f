package topicconfig

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

var (
	// ErrUnknown: no config has this name.
	ErrUnknown = errors.New("unknown config")
	// ErrInvalid: the value does not parse or is not among those accepted.
	ErrInvalid = errors.New("invalid config value")
)

// Type is a config's type, numbered as DescribeConfigs numbers them.
type Type int8

// The types in use.
const (
	Boolean Type = 1
	String  Type = 2
	Int     Type = 3
	Long    Type = 5
	Double  Type = 6
	List    Type = 7
)

func (t Type) String() string {
	switch t {
	case Boolean:
		return "boolean"
	case String:
		return "string"
	case Int:
		return "int"
	case Long:
		return "long"
	case Double:
		return "double"
	case List:
		return "list"
	default:
		return "Type(" + strconv.Itoa(int(t)) + ")"
	}
}

// Source says where a value in force comes from, numbered as DescribeConfigs numbers them.
type Source int8

// The sources in use.
const (
	FromTopic   Source = 1 // set on the topic
	FromCluster Source = 3 // set for all brokers
	FromStart   Source = 4 // given to the agent when it started
	FromDefault Source = 5
)

// Synonym is a cluster-wide config that gives a topic config its value where the topic has none.
type Synonym struct {
	Name string
	// Scale is how many of the topic config's units one unit of the synonym's is: 3 600 000 for hours against ms. Never 0.
	Scale int64
}

// Effect says what becomes of a config that is set.
type Effect int8

// The effects.
const (
	InForce     Effect = iota // it does what it says
	NotYet                    // it is kept for what this firn does not do yet
	NoEffect                  // there is nothing here that it could change
	DefaultOnly               // another value than the default asks for what is not there, and is refused
)

func (e Effect) String() string {
	switch e {
	case NotYet:
		return "Kept and reported; nothing in this firn acts on it yet."
	case NoEffect:
		return "Accepted for compatibility; it has no effect here."
	case DefaultOnly:
		return "Only the default is accepted."
	case InForce:
	}
	return "They do what they say."
}

// Format is a form of the words of a List, or of a String, which is one word.
type Format struct {
	Words string // the form in words
	ok    func(words []string) bool
}

// Spec describes one config.
type Spec struct {
	Name     string
	Type     Type
	Default  string
	Doc      string
	Synonyms []Synonym // by precedence

	// Min and Max bound Int, Long and Double values, inclusive.
	Min, Max float64
	// Values are the accepted words of a String or List; nil accepts anything.
	Values []string
	// Format, where not nil, is what a String or the words of a List look like.
	Format *Format
	// Effect is what setting it does.
	Effect Effect
	// Refused values parse, but ask for something that is not there. The map's value says what.
	Refused map[string]string
}

// Description is the documentation with the effect and the accepted values.
func (s *Spec) Description() string {
	doc := s.Doc
	if s.Effect != InForce {
		doc += " " + s.Effect.String()
	}
	return doc + " Accepted: " + s.AcceptedValues() + "."
}

// AcceptedValues describes in words what Check accepts.
func (s *Spec) AcceptedValues() string {
	switch s.Type {
	case Boolean:
		return "true, false"
	case Int, Long, Double:
		if s.Min == -maxLong-1 {
			return "any number"
		}
		if s.Max == s.limit() {
			return "at least " + strconv.FormatFloat(s.Min, 'f', -1, 64)
		}
		return fmt.Sprintf("%s to %s", strconv.FormatFloat(s.Min, 'f', -1, 64), strconv.FormatFloat(s.Max, 'f', -1, 64))
	case String, List:
		if s.Values != nil {
			return strings.Join(s.Values, ", ")
		}
		if s.Format != nil {
			return s.Format.Words
		}
	}
	return "anything"
}

// limit is the largest value of a numeric type.
func (s *Spec) limit() float64 {
	switch s.Type {
	case Int:
		return math.MaxInt32
	case Long:
		return math.MaxInt64
	case Boolean, String, Double, List:
	}
	return math.MaxFloat64
}

// Check returns nil where value may be set, else an error that wraps ErrInvalid and says what is accepted.
func (s *Spec) Check(value string) error {
	refuse := func(why string) error {
		return fmt.Errorf("%w %q for %s: %s", ErrInvalid, value, s.Name, why)
	}
	if why, ok := s.Refused[strings.ToLower(value)]; ok {
		return refuse(why)
	}
	switch s.Type {
	case Boolean:
		if v := strings.ToLower(strings.TrimSpace(value)); v != "true" && v != "false" {
			return refuse("accepted are true and false")
		}
	case Int, Long:
		bits := 64
		if s.Type == Int {
			bits = 32
		}
		v, err := strconv.ParseInt(strings.TrimSpace(value), 10, bits)
		if err != nil {
			return refuse("not a number of type " + s.Type.String())
		}
		if float64(v) < s.Min || float64(v) > s.Max {
			return refuse("accepted is " + s.AcceptedValues())
		}
	case Double:
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || math.IsNaN(v) {
			return refuse("not a number")
		}
		if v < s.Min || v > s.Max {
			return refuse("accepted is " + s.AcceptedValues())
		}
	case String:
		if s.Values != nil && !slices.Contains(s.Values, value) {
			return refuse("accepted are " + s.AcceptedValues())
		}
		if s.Format != nil && !s.Format.ok([]string{value}) {
			return refuse("accepted is " + s.AcceptedValues())
		}
	case List:
		words := SplitList(value)
		switch {
		case s.Format != nil && !s.Format.ok(words):
			return refuse("accepted are " + s.AcceptedValues())
		case s.Values == nil:
		case len(words) > 0 && len(words) != strings.Count(value, ",")+1, len(words) == 0 && strings.Contains(value, ","):
			return refuse("a word of the list is empty")
		}
		for _, w := range words {
			if s.Values != nil && !slices.Contains(s.Values, w) {
				return refuse("accepted are lists of " + s.AcceptedValues())
			}
		}
	default:
		return refuse("no such type")
	}
	return nil
}

// SplitList returns the words of a list value, trimmed, without empty ones.
func SplitList(value string) []string {
	var words []string
	for w := range strings.SplitSeq(value, ",") {
		if w = strings.TrimSpace(w); w != "" {
			words = append(words, w)
		}
	}
	return words
}

// All returns every topic config by name. The caller must not change what it points to.
func All() []Spec { return specs }

// Lookup returns the config of that name.
func Lookup(name string) (*Spec, bool) {
	i, ok := slices.BinarySearchFunc(specs, name, func(s Spec, name string) int { return strings.Compare(s.Name, name) })
	if !ok {
		return nil, false
	}
	return &specs[i], true
}

// Validate returns nil where a topic may set name to value. Errors wrap ErrUnknown or ErrInvalid.
func Validate(name, value string) error {
	s, ok := Lookup(name)
	if !ok {
		return unknown(name)
	}
	return s.Check(value)
}

// Removed returns the configs of older Kafkas that are refused by name, and why. The caller must not change it.
func Removed() map[string]string { return removed }

// unknown says what is known of a name without a config.
func unknown(name string) error {
	if why, ok := removed[name]; ok {
		return fmt.Errorf("%w %q: it %s", ErrUnknown, name, why)
	}
	if s, _, ok := LookupCluster(name); ok {
		return fmt.Errorf("%w %q of a topic: it is the cluster-wide form of %s", ErrUnknown, name, s.Name)
	}
	return fmt.Errorf("%w %q", ErrUnknown, name)
}

// Get looks up a config that was set: a topic's own or a cluster-wide one.
type Get func(name string) (value string, ok bool)

// Unset is a Get of nothing.
func Unset(string) (string, bool) { return "", false }

// Resolve returns the value in force and where it comes from. A stored value that this build would not accept is passed
// over: it was written by a newer one.
func (s *Spec) Resolve(topic, cluster Get) (string, Source) {
	if v, ok := topic(s.Name); ok && s.Check(v) == nil {
		return v, FromTopic
	}
	for _, syn := range s.Synonyms {
		if v, ok := cluster(syn.Name); ok {
			if v, ok = syn.convert(v); ok && s.Check(v) == nil {
				return v, FromCluster
			}
		}
	}
	return s.Default, FromDefault
}

// convert scales a synonym's value to the topic config's unit. Negative values mean "none" in both and stay.
func (s Synonym) convert(value string) (string, bool) {
	if s.Scale == 1 {
		return value, true
	}
	v, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	if err != nil || v > math.MaxInt64/s.Scale {
		return "", false
	}
	if v < 0 {
		return value, true
	}
	return strconv.FormatInt(v*s.Scale, 10), true
}

// LookupCluster returns the topic config that a cluster-wide config of this name stands in for.
func LookupCluster(name string) (*Spec, Synonym, bool) {
	for i := range specs {
		for _, syn := range specs[i].Synonyms {
			if syn.Name == name {
				return &specs[i], syn, true
			}
		}
	}
	return nil, Synonym{}, false
}

// ValidateCluster returns nil where the cluster-wide config name may be set to value. Errors wrap ErrUnknown or ErrInvalid.
func ValidateCluster(name, value string) error {
	s, syn, ok := LookupCluster(name)
	if !ok {
		if t, ok := Lookup(name); ok && len(t.Synonyms) > 0 {
			return fmt.Errorf("%w %q for the cluster: there it is called %s", ErrUnknown, name, t.Synonyms[0].Name)
		}
		return fmt.Errorf("%w %q", ErrUnknown, name)
	}
	v, ok := syn.convert(value)
	if !ok {
		return fmt.Errorf("%w %q for %s: not a number in range", ErrInvalid, value, name)
	}
	return s.Check(v)
}
