package lifecycle

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// MaxRules is how many rules a bucket may hold, foreign ones included.
const MaxRules = 1000

// ErrTooManyRules: the bucket has no room for the rules that topics need.
var ErrTooManyRules = errors.New("too many lifecycle rules")

// Housekeeping of buckets with versions.
const (
	versionDays = 7
	uploadDays  = 7
)

// Site is where a cluster's objects lie.
type Site struct {
	Cluster string // the id that Kafka clients are told
	Prefix  string // before every key; "" or ends in '/'
}

// ruleSpace starts the ids of this cluster's rules.
func (s Site) ruleSpace() string { return ruleRoot + s.Cluster + "/" }

// ruleRoot starts the ids of any firn cluster's rules.
const ruleRoot = "firn/"

// Ours reports whether a rule is one that this cluster writes and may replace.
func (s Site) Ours(r *Rule) bool { return strings.HasPrefix(r.ID, s.ruleSpace()) }

func (s Site) level0() string { return s.Prefix + "data/" }
func (s Site) merged() string { return s.Prefix + "topics/" }

// TopicPrefix is where a topic's merged objects lie, in the names that rules are in.
func (s Site) TopicPrefix(t *Topic) string { return s.merged() + fmt.Sprintf("%x/", t.ID[:]) }

func (s Site) classRule(c Class) string { return s.ruleSpace() + "class-" + c.String() }

// Rules are the rules that topics need, without the classes that are held, sorted by id. versions asks for housekeeping of old
// versions where no topic does.
func (s Site) Rules(topics []Topic, held []Hold, versions bool) []Rule {
	var rules []Rule
	if !versions && !slices.ContainsFunc(topics, func(t Topic) bool { return t.Label().Key == TagClass }) {
		return nil
	}
	for _, c := range classesOf(topics) {
		name := c.String()
		if c == (Class{}) || slices.ContainsFunc(held, func(h Hold) bool { return h.Class == name }) {
			continue
		}
		r := Rule{ID: s.classRule(c), Enabled: true, Prefix: s.merged(), Tags: []Tag{{TagClass, name}}, ExpireDays: c.ExpireDays}
		if c.MoveTo != "" {
			r.Moves = []Move{{Days: c.MoveDays, Class: c.MoveTo}}
		}
		rules = append(rules, r)
	}
	for id, prefix := range s.versionRules() {
		rules = append(rules, Rule{
			ID: id, Enabled: true, Prefix: prefix,
			NoncurrentDays: versionDays, ExpireMarkers: true, AbortDays: uploadDays,
		})
	}
	slices.SortFunc(rules, func(a, b Rule) int { return cmp.Compare(a.ID, b.ID) })
	return rules
}

// versionRules are the ids and prefixes of housekeeping.
func (s Site) versionRules() map[string]string {
	return map[string]string{s.ruleSpace() + "old-versions-data": s.level0(), s.ruleSpace() + "old-versions-topics": s.merged()}
}

// Change is a rule that is to be replaced by another of its id.
type Change struct {
	From Rule `json:"from"`
	To   Rule `json:"to"`
}

// Plan is what to do to a bucket's rules, as data.
type Plan struct {
	Add     []Rule   `json:"add,omitempty"`
	Change  []Change `json:"change,omitempty"`
	Remove  []Rule   `json:"remove,omitempty"`
	Keep    []Rule   `json:"keep,omitempty"`
	Held    []Hold   `json:"held,omitempty"`
	Foreign []Rule   `json:"foreign,omitempty"` // as they came
}

// NewPlan compares the bucket's rules with those that topics need. Housekeeping of old versions is written where versions or a mirrored
// topic asks for it, and stays. Errors: ErrTooManyRules, with the plan all the same.
func NewPlan(site Site, have []Rule, topics []Topic, held []Hold, versions bool) (*Plan, error) {
	p := &Plan{Held: held}
	housekeeping := site.versionRules()
	versions = versions || slices.ContainsFunc(have, func(r Rule) bool { return housekeeping[r.ID] != "" })
	want := site.Rules(topics, held, versions)
	ours := make(map[string]Rule)
	for _, r := range have {
		if site.Ours(&r) {
			ours[r.ID] = r
		} else {
			p.Foreign = append(p.Foreign, r)
		}
	}
	for _, r := range want {
		old, ok := ours[r.ID]
		delete(ours, r.ID)
		switch {
		case !ok:
			p.Add = append(p.Add, r)
		case old.same(&r):
			p.Keep = append(p.Keep, old)
		default:
			p.Change = append(p.Change, Change{old, r})
		}
	}
	for _, r := range have {
		if gone, ok := ours[r.ID]; ok {
			p.Remove = append(p.Remove, gone)
		}
	}
	if n := len(want) + len(p.Foreign); n > MaxRules {
		return p, fmt.Errorf("%w: %d of firn's and %d of others are %d, a bucket holds %d; give topics fewer different retentions, or move some of either to another bucket",
			ErrTooManyRules, len(want), len(p.Foreign), n, MaxRules)
	}
	return p, nil
}

// Changed reports whether there is anything to do.
func (p *Plan) Changed() bool { return len(p.Add)+len(p.Change)+len(p.Remove) > 0 }

// Rules are the bucket's rules once the plan is carried out: foreign ones first, in the order in which they came.
func (p *Plan) Rules() []Rule {
	rules := slices.Concat(p.Foreign, p.Keep, p.Add)
	for _, c := range p.Change {
		rules = append(rules, c.To)
	}
	ours := rules[len(p.Foreign):]
	slices.SortFunc(ours, func(a, b Rule) int { return cmp.Compare(a.ID, b.ID) })
	return rules
}

// Write says in words what the plan does.
func (p *Plan) Write(w io.Writer) error {
	var b strings.Builder
	line := func(sign string, r *Rule) { fmt.Fprintf(&b, "%s %s\n    %v\n", sign, r.ID, r) }
	for i := range p.Remove {
		line("-", &p.Remove[i])
	}
	for i := range p.Change {
		line("-", &p.Change[i].From)
		line("+", &p.Change[i].To)
	}
	for i := range p.Add {
		line("+", &p.Add[i])
	}
	for _, h := range p.Held {
		if h.Topic == "" {
			fmt.Fprintf(&b, "! class %s is held: %s\n", h.Class, h.Why)
		} else {
			fmt.Fprintf(&b, "! class %s is held for topic %s: %s\n", h.Class, h.Topic, h.Why)
		}
	}
	if !p.Changed() {
		b.WriteString("nothing to change\n")
	}
	fmt.Fprintf(&b, "%d added, %d changed, %d removed, %d kept; %d foreign left as they are\n",
		len(p.Add), len(p.Change), len(p.Remove), len(p.Keep), len(p.Foreign))
	_, err := io.WriteString(w, b.String())
	return err
}
