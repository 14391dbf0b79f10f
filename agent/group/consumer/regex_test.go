package consumer

import (
	"strings"
	"testing"
)

// The verdicts are RE2/J's, 1.8, which Apache Kafka 4.4 has, but for what is said otherwise.
func TestExpressionsAreTakenAsRE2JTakesThem(t *testing.T) {
	for expression, ok := range map[string]bool{
		"a.*": true, "(?<name>x)": true, "(?P<name>x)": true, "(?P=name)": false, `\pL`: true, `\p{Greek}`: true, `\p{Lu}`: true,
		`\p{^Lu}`: true, `[^\p{^Lu}]`: true, `\p{Letter}`: false, `\p{Uppercase_Letter}`: false, `\p{Any}`: true, `\p{ASCII}`: false,
		`\p{LC}`: false, `\p{Cn}`: false, `\p{greek}`: false, `\C`: false, `\z`: true, `\Z`: false, `\A`: true, `\Qa.b\E`: true,
		`\Qa.b`: true, `\Q\p{Letter}\E`: true, `\\p{Letter}`: true, "a**": false, "a{2}{3}": false, "a{1001}": false, "a{1000}": true,
		"a{2,1}": false, "[a-": false, "[z-a]": false, "[[:alpha:]]": true, "[[:foo:]]": false, "(?i)abc": true, "(?i:abc)": true,
		"(?x)abc": false, "(?U)a+": true, "(?=a)": false, "(?!a)": false, "(?<=a)": false, `\1`: false, `\07`: true, `\x{41}`: true,
		`\x{110000}`: false, `\u0041`: false, `\h`: false, `\d+`: true, `\b`: true, "[]a]": true, "[]": false, "()": true, "a||b": true,
		"*a": false, "a{,2}": true, "(": false, ")": false, "a)(b": false, "a)|(?:b": false, "(?P<n>a)(?P<n>b)": false, `\`: false, `\-`: true,
		"(?#comment)": false, "": true,
		"(a{100}){100}": false, // RE2/J takes it and makes a program of ten thousand steps of it
	} {
		if _, err := compile(expression); (err == nil) != ok {
			t.Errorf("%q: %v, want taken: %v", expression, err, ok)
		}
	}
	if _, err := compile(strings.Repeat("a", expressionMax+1)); err == nil {
		t.Error("an expression of any length is taken")
	}
}

func TestExpressionsMatchWholeNames(t *testing.T) {
	for expression, want := range map[string]string{
		"a": "a", "a.*": "a ab abc", "b|abc": "abc b", "(?i)A": "a", "": "", ".*": "a ab abc b", "a$|b": "a b", `\Qab\E`: "ab",
	} {
		re, err := compile(expression)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(matches(re, []string{"a", "ab", "abc", "b"}), " "); got != want {
			t.Errorf("%q matches %q, want %q", expression, got, want)
		}
	}
}
