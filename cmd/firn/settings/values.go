package settings

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is how a number is written.
type Kind uint8

// The kinds of numbers.
const (
	Count Kind = iota
	Bytes
	Duration
)

// Number is a number with bounds.
type Number struct {
	Name, Help        string
	Kind              Kind
	Default, Min, Max int64 // both included
	Get               func() int64
	Set               func(int64)
}

// Number declares a number. Its place may hold zero for the default until somebody fills it in.
func (s *Set) Number(n Number) *Setting {
	x := &Setting{
		Name: n.Name, Help: n.Help, Type: [...]string{"number", "bytes", "duration"}[n.Kind],
		Bounds: Format(n.Kind, n.Min) + " to " + Format(n.Kind, n.Max),
		parse: single(func(v string) (func(), error) {
			i, err := Parse(n.Kind, v)
			if err != nil {
				return nil, err
			}
			if i < n.Min || i > n.Max {
				return nil, fmt.Errorf("must lie between %s and %s", Format(n.Kind, n.Min), Format(n.Kind, n.Max))
			}
			return func() { n.Set(i) }, nil
		}),
		show: func() string {
			if v := n.Get(); v != 0 {
				return Format(n.Kind, v)
			}
			return Format(n.Kind, n.Default)
		},
	}
	return s.declare(x)
}

// Period declares a duration whose default is what p holds.
func (s *Set) Period(p *time.Duration, name string, least, most time.Duration, help string) *Setting {
	return s.Number(Number{
		Name: name, Help: help, Kind: Duration, Default: int64(*p), Min: int64(least), Max: int64(most),
		Get: func() int64 { return int64(*p) }, Set: func(v int64) { *p = time.Duration(v) },
	})
}

// Text declares a text whose default is what p holds.
func (s *Set) Text(p *string, name, help string) *Setting {
	return s.declare(&Setting{
		Name: name, Help: help, Type: "text",
		parse: single(func(v string) (func(), error) {
			if v == "" {
				return nil, errors.New("is empty; leave it out")
			}
			return func() { *p = v }, nil
		}),
		show: func() string { return *p },
	})
}

// Path declares the path of a file or a directory, relative to the working directory.
func (s *Set) Path(p *string, name, help string) *Setting {
	x := s.Text(p, name, help)
	x.Type = "path"
	return x
}

// Secret declares a text that is taken from the environment only and never printed.
func (s *Set) Secret(p *string, name, help string) *Setting {
	return s.declare(&Setting{
		Name: name, Help: help, Type: "secret", Secret: true,
		// As it is, but for the line end that a file mounted as a variable brings: blanks may be part of it.
		parse: func(values []string) (func(), error) {
			v := strings.TrimRight(values[len(values)-1], "\r\n")
			return func() { *p = v }, nil
		},
		show: func() string { return *p },
	})
}

// List declares a list of texts, written with commas between, or as a sequence in the file.
func (s *Set) List(p *[]string, name, help string) *Setting {
	return s.declare(&Setting{
		Name: name, Help: help, Type: "list", list: true,
		parse: func(values []string) (func(), error) {
			values = split(values)
			if len(values) == 0 {
				return nil, errors.New("names nothing; leave it out")
			}
			if slices.Contains(values, "") {
				return nil, errors.New("has an empty element")
			}
			return func() { *p = values }, nil
		},
		show: func() string { return strings.Join(*p, ",") },
	})
}

// Flag declares a switch whose default is what p holds.
func (s *Set) Flag(p *bool, name, help string) *Setting {
	return s.declare(&Setting{
		Name: name, Help: help, Type: "true|false",
		parse: single(func(v string) (func(), error) {
			switch v {
			case "true", "1":
				return func() { *p = true }, nil
			case "false", "0":
				return func() { *p = false }, nil
			}
			return nil, errors.New("is neither true nor false")
		}),
		show: func() string { return strconv.FormatBool(*p) },
	})
}

// Choice declares one of a few words.
func (s *Set) Choice(p *string, name, help string, words ...string) *Setting {
	return s.declare(&Setting{
		Name: name, Help: help, Type: strings.Join(words, "|"),
		parse: single(func(v string) (func(), error) {
			if !slices.Contains(words, v) {
				return nil, fmt.Errorf("is not one of %s%s", strings.Join(words, ", "), didYouMean(v, words))
			}
			return func() { *p = v }, nil
		}),
		show: func() string { return *p },
	})
}

// single adapts a parser of one value; of a flag given more than once the last counts.
func single(parse func(string) (func(), error)) func([]string) (func(), error) {
	return func(values []string) (func(), error) { return parse(strings.TrimSpace(values[len(values)-1])) }
}

// split takes apart elements that hold commas.
func split(values []string) []string {
	var out []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			out = append(out, strings.TrimSpace(part))
		}
	}
	if len(out) == 1 && out[0] == "" {
		return nil
	}
	return out
}

// units of bytes, largest first; decimal ones are read but not written.
var units = []struct {
	name  string
	bytes int64
}{
	{"PiB", 1 << 50}, {"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"PB", 1e15}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// Parse reads a number as an operator writes it.
func Parse(kind Kind, v string) (int64, error) {
	switch kind {
	case Bytes:
		digits, scale := v, int64(1)
		for _, u := range units {
			if rest, ok := strings.CutSuffix(v, u.name); ok {
				digits, scale = strings.TrimSpace(rest), u.bytes
				break
			}
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n != 0 && n*scale/n != scale {
			return 0, errors.New("is not a size; write a whole number with its unit, such as 64MiB, 1GiB or 500MB")
		}
		return n * scale, nil
	case Duration:
		d, err := time.ParseDuration(v)
		if err != nil {
			return 0, errors.New("is not a duration; write a number with its unit, such as 250ms, 30s or 10m")
		}
		return int64(d), nil
	default:
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, errors.New("is not a whole number")
		}
		return n, nil
	}
}

// Format writes a number as an operator would, so that Parse gives it back.
func Format(kind Kind, v int64) string {
	switch kind {
	case Bytes:
		for _, u := range units {
			if strings.HasSuffix(u.name, "iB") && v != 0 && v%u.bytes == 0 {
				return strconv.FormatInt(v/u.bytes, 10) + u.name
			}
		}
		return strconv.FormatInt(v, 10) + "B"
	case Duration:
		s := time.Duration(v).String()
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		if strings.HasSuffix(s, "h0m") {
			s = strings.TrimSuffix(s, "0m")
		}
		return s
	default:
		return strconv.FormatInt(v, 10)
	}
}

// DidYouMean is a hint at the setting whose name was probably meant, or "".
func (s *Set) DidYouMean(name string) string { return didYouMean(name, s.names()) }

// didYouMean is a hint at the word that was probably meant, or "".
func didYouMean(word string, known []string) string {
	best, distance := "", 1+max(1, min(3, len(word)/2))
	for _, k := range known {
		if d := edits(word, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// edits counts the letters to insert, delete or replace between a and b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
