package consumer

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
)

// expressionMax bounds an expression's bytes. It is matched with every topic there is, in time that grows with both.
const expressionMax = 4096

// compile reads a subscription's regular expression: RE2, as RE2/J takes it in Apache Kafka, and it matches whole names. The
// error is text for the client.
func compile(expression string) (*regexp.Regexp, error) {
	if len(expression) > expressionMax {
		return nil, fmt.Errorf("it has %d bytes, and %d at most are taken", len(expression), expressionMax)
	}
	// Parsed alone and written anew: "a)|(b" is an expression only between our parentheses, and `\Qa` would quote the last of them.
	alone, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, err
	}
	if err := beyondRE2J(expression, alone.CapNames()); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + alone.String() + `)\z`)
}

// beyondRE2J refuses what Go takes and RE2/J does not: two groups of one name, and names of Unicode classes that are spelt
// otherwise than RE2 spells them. Scripts that are younger than RE2/J's tables are taken: no topic's name has their letters.
func beyondRE2J(rest string, names []string) error {
	groups := make(map[string]bool)
	for _, name := range names {
		if name != "" && groups[name] {
			return fmt.Errorf("error parsing regexp: duplicate capture group name: `%s`", name)
		}
		groups[name] = true
	}
	for {
		i := strings.IndexByte(rest, '\\')
		if i < 0 || i+1 == len(rest) {
			return nil
		}
		escape := rest[i+1]
		rest = rest[i+2:]
		switch escape {
		case 'Q': // literal up to \E
			if end := strings.Index(rest, `\E`); end >= 0 {
				rest = rest[end+2:]
			} else {
				rest = ""
			}
		case 'p', 'P':
			name, _, ok := strings.Cut(strings.TrimPrefix(rest, "{"), "}")
			if !ok || !strings.HasPrefix(rest, "{") {
				continue // one letter: a category that Go knows is one that all know
			}
			name = strings.TrimPrefix(name, "^")
			_, category := unicode.Categories[name]
			_, script := unicode.Scripts[name]
			if category && (len(name) > 2 || name == "LC" || name == "Cn") || !category && !script && name != "Any" {
				return fmt.Errorf("error parsing regexp: invalid character class range: `\\%c{%s}`", escape, name)
			}
		}
	}
}

// matches resolves an expression among names.
func matches(re *regexp.Regexp, names []string) []string {
	var found []string
	for _, name := range names {
		if re.MatchString(name) {
			found = append(found, name)
		}
	}
	return found
}
