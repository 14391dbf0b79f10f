package lifecycle

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore"
)

// Severity is how bad a finding is.
type Severity string

// The severities, worst first.
const (
	Loses   Severity = "loses"   // data that a topic promises goes, or is not protected as promised
	Hides   Severity = "hides"   // data is there and cannot be read at once
	Stops   Severity = "stops"   // the store refuses what a topic asks for, and firn's own work on it stands still
	Costs   Severity = "costs"   // what was deleted stays and is paid for
	Unknown Severity = "unknown" // firn may not look, or cannot do what topics ask for
)

// Severities are all of them, worst first.
func Severities() []Severity { return []Severity{Loses, Hides, Stops, Costs, Unknown} }

// Finding is one contradiction between the bucket and what topics promise.
type Finding struct {
	Severity Severity `json:"severity"`
	Rule     string   `json:"rule,omitempty"`  // the store's name for it
	Topic    string   `json:"topic,omitempty"` // the first of those it meets, "" for the cluster's own data or all topics
	Topics   int      `json:"topics,omitempty"`
	What     string   `json:"what"` // what would happen when
	Mend     string   `json:"mend"`
}

// String is the finding on one line.
func (f Finding) String() string {
	s := string(f.Severity) + ": "
	if f.Rule != "" {
		s += fmt.Sprintf("rule %q: ", f.Rule)
	}
	switch {
	case f.Topics > 1:
		s += fmt.Sprintf("topic %s and %d more: ", f.Topic, f.Topics-1)
	case f.Topic != "":
		s += "topic " + f.Topic + ": "
	}
	return s + f.What + "; " + f.Mend
}

// Fails reports whether a finding is one that `firn bucket check` fails for.
func (f Finding) Fails() bool {
	return f.Severity == Loses || f.Severity == Hides || f.Severity == Stops
}

// Check finds what contradicts topics, worst first. ledger says what tags objects may carry; nil: those that they should.
func Check(site Site, inv *Inventory, topics []Topic, ledger *Ledger) []Finding {
	c := &checker{site: site, inv: inv, topics: topics, ledger: ledger}
	c.access()
	for i := range inv.Rules {
		if r := &inv.Rules[i]; r.Enabled {
			c.level0(r)
			c.merged(r)
		}
	}
	c.room()
	c.authoritative()
	c.versions()
	c.locks()
	c.classes()
	rank := func(f Finding) int { return slices.Index(Severities(), f.Severity) }
	slices.SortStableFunc(c.found, func(a, b Finding) int { return cmp.Compare(rank(a), rank(b)) })
	return c.found
}

type checker struct {
	site   Site
	inv    *Inventory
	topics []Topic
	ledger *Ledger
	found  []Finding
}

func (c *checker) add(severity Severity, rule, what, mend string, topics ...string) {
	f := Finding{Severity: severity, Rule: rule, What: what, Mend: mend, Topics: len(topics)}
	if len(topics) > 0 {
		f.Topic = topics[0]
	}
	c.found = append(c.found, f)
}

// access tells what firn may not see, where somebody relies on it.
func (c *checker) access() {
	var needs []string
	for i := range c.topics {
		if c.topics[i].Settings.BucketLifecycle != topicconfig.LifecycleOff {
			needs = append(needs, c.topics[i].Name)
		}
	}
	if err := c.inv.RulesErr; err != nil && !(errors.Is(err, objstore.ErrInvalid) && len(needs) == 0) {
		what := "whether a rule of the bucket deletes live data is not known: " + err.Error()
		if errors.Is(err, objstore.ErrInvalid) {
			what = "the bucket has no lifecycle rules, and firn.bucket.lifecycle asks for them: " + err.Error()
			c.add(Unknown, "", what, "set firn.bucket.lifecycle=off, or use a store that has rules; firn deletes by itself all the same", needs...)
		} else {
			c.add(Unknown, "", what, "give firn's credentials "+ActionGetRules, needs...)
		}
	}
	if err := c.inv.VersioningErr; err != nil && !errors.Is(err, objstore.ErrInvalid) {
		c.add(Unknown, "", "whether the bucket keeps what is deleted is not known: "+err.Error(), "give firn's credentials "+ActionGetVersioning)
	}
	if err := c.inv.LockErr; err != nil && !errors.Is(err, objstore.ErrInvalid) {
		c.add(Unknown, "", "whether the bucket locks objects is not known: "+err.Error(), "give firn's credentials "+ActionGetLock)
	}
}

// level0 holds a rule against what no rule may expire or freeze: level 0, whose objects are of many topics, and the cluster's own.
// None of these carries a tag.
func (c *checker) level0(r *Rule) {
	for _, of := range []struct{ prefix, what, loss string }{
		{c.site.level0(), "objects that hold records of every topic which were not merged yet", "acknowledged records are lost"},
		{c.site.Prefix + "metastore/", "the cluster's log archive and snapshots", "no agent can start and nothing can be restored"},
		{c.site.Prefix + "firn-cluster.json", "the object that says whose bucket this is", "agents refuse to start"},
		{c.site.Prefix + LedgerKey, "the ledger of object tags", "every rule of firn's is held until all objects were looked at again"},
	} {
		if !r.takes(of.prefix, nil) {
			continue
		}
		if r.expires() {
			c.add(Loses, r.ID, fmt.Sprintf("%s %s, so %s", when(r), of.what, of.loss), c.narrow(r))
		} else if m, bad := r.asleep(); bad {
			c.add(Hides, r.ID, fmt.Sprintf("moves %s to %s %s, where they cannot be read", of.what, m.Class, moved(m)), c.narrow(r))
		}
	}
}

// when says that a rule deletes, and when.
func when(r *Rule) string {
	if r.ExpireDays > 0 {
		return fmt.Sprintf("deletes, %s after their upload,", days(r.ExpireDays))
	}
	return fmt.Sprintf("deletes, on %s,", r.ExpireDate.Format(time.DateOnly))
}

func moved(m Move) string {
	if m.Date.IsZero() {
		return days(m.Days) + " after their upload"
	}
	return "on " + m.Date.Format(time.DateOnly)
}

func (c *checker) narrow(r *Rule) string {
	switch {
	case c.site.Ours(r):
		return "somebody changed a rule of firn's: firn bucket apply puts it right"
	case strings.HasPrefix(r.ID, ruleRoot):
		return "it is another cluster's: give each cluster a prefix of its own, none below another's"
	case c.site.Prefix == "":
		return fmt.Sprintf("delete the rule or give it a prefix other than firn's, which are %q, %q, \"metastore/\" and \"lifecycle/\"", "data/", "topics/")
	}
	return fmt.Sprintf("delete the rule or give it a prefix that is not above %q", c.site.Prefix)
}

// labels are what the topic's objects may carry.
func (c *checker) labels(t *Topic) []Label {
	if c.ledger != nil {
		if have := c.ledger.Topics[fmt.Sprintf("%x", t.ID[:])]; have != nil {
			if wants := t.Label(); !slices.Contains(have.Bears, wants) {
				return append(slices.Clone(have.Bears), wants)
			}
			return have.Bears
		}
	}
	return []Label{t.Label()}
}

func (c *checker) tags(t *Topic) (tags []Tag) {
	for _, l := range c.labels(t) {
		if l != (Label{}) {
			tags = append(tags, l)
		}
	}
	return tags
}

// merged holds a rule against each topic's merged objects.
func (c *checker) merged(r *Rule) {
	move, sleeps := r.asleep()
	if !r.expires() && !sleeps {
		return
	}
	var dated, early, never, hidden []string
	least := ever
	for i := range c.topics {
		t := &c.topics[i]
		if !r.takes(c.site.TopicPrefix(t), c.tags(t)) {
			continue
		}
		safe := SafeDays(&t.Settings)
		follows := t.Settings.BucketLifecycle == topicconfig.LifecycleAuthoritative && r.covers(c.site.TopicPrefix(t), c.tags(t))
		switch {
		case !r.ExpireDate.IsZero():
			dated = append(dated, t.Name)
		case r.ExpireDays == 0 || follows && !t.Settings.Compact:
		case safe == ever:
			never = append(never, t.Name)
		case r.ExpireDays < safe-1:
			early = append(early, t.Name)
			least = min(least, safe)
		}
		if sleeps {
			hidden = append(hidden, t.Name)
		}
	}
	mend := c.narrow(r)
	if !c.site.Ours(r) {
		mend += "; or, where the bucket is to decide, set firn.bucket.lifecycle=authoritative on the topic"
	}
	if len(dated) > 0 {
		c.add(Loses, r.ID, when(r)+" merged objects whatever their age", c.narrow(r), dated...)
	}
	if len(never) > 0 {
		c.add(Loses, r.ID, when(r)+" merged objects of topics that are compacted or that age alone takes nothing from", mend, never...)
	}
	if len(early) > 0 {
		c.add(Loses, r.ID, fmt.Sprintf("%s merged objects whose records are to be kept for longer: it is safe from %s on", when(r), days(least)), mend, early...)
	}
	if len(hidden) > 0 {
		c.add(Hides, r.ID, fmt.Sprintf("moves merged objects to %s %s, where they cannot be read before they are restored", move.Class, moved(move)),
			"move them to a class that reads at once, such as GLACIER_IR, or not at all", hidden...)
	}
}

// room holds the number of rules against what a bucket takes.
func (c *checker) room() {
	if _, err := NewPlan(c.site, c.inv.Rules, c.topics, nil, false); err != nil {
		c.add(Unknown, "", err.Error(), "until then firn writes no rules, and deletes by itself all the same")
	}
}

// authoritative tells of topics that follow a rule which is not there.
func (c *checker) authoritative() {
	if c.inv.RulesErr != nil {
		return
	}
	var without []string
	for i := range c.topics {
		t := &c.topics[i]
		if t.Settings.BucketLifecycle == topicconfig.LifecycleAuthoritative {
			if days, _ := Follow(c.site, c.inv.Rules, t); days == 0 {
				without = append(without, t.Name)
			}
		}
	}
	if len(without) > 0 {
		c.add(Costs, "", "no rule of the bucket deletes its objects, which are to follow one: records are kept for ever",
			fmt.Sprintf("write a rule with the tag %s=TOPIC, or the prefix %q and the topic's id, or set firn.bucket.lifecycle=off", TagTopic, c.site.merged()), without...)
	}
}

// versions finds what a bucket with versions keeps of what is deleted.
func (c *checker) versions() {
	if c.inv.Versioning == VersioningOff || c.inv.RulesErr != nil {
		return
	}
	var kept []string
	for _, prefix := range []string{c.site.level0(), c.site.merged()} {
		if !slices.ContainsFunc(c.inv.Rules, func(r Rule) bool { return r.covers(prefix, nil) && r.NoncurrentDays > 0 && r.NoncurrentKeep == 0 }) {
			kept = append(kept, fmt.Sprintf("%q", prefix))
		}
	}
	if len(kept) > 0 {
		c.add(Costs, "", fmt.Sprintf("the bucket keeps versions (%s) and no rule ends those that firn has deleted below %s: they are paid for for ever",
			strings.ToLower(string(c.inv.Versioning)), strings.Join(kept, " and ")),
			fmt.Sprintf("firn bucket apply --versions writes rules that delete them after %d days; a topic with firn.bucket.lifecycle=mirror brings them too", versionDays))
	}
}

// locks holds the bucket's lock against topics that count on it, and its default against all of them.
func (c *checker) locks() {
	if c.inv.LockErr != nil && !errors.Is(c.inv.LockErr, objstore.ErrInvalid) {
		return
	}
	var open, longer []string
	for i := range c.topics {
		t := &c.topics[i]
		if t.Settings.Locked() && !c.inv.Lock.Enabled {
			open = append(open, t.Name)
		}
		if kept := t.Settings.EffectiveRetentionMS(); kept >= 0 && kept < c.inv.Lock.period().Milliseconds() {
			longer = append(longer, t.Name)
		}
	}
	if len(open) > 0 {
		c.add(Loses, "", "its objects are to be locked, and the bucket has no object lock: producers to it are refused",
			"object lock is chosen when a bucket is made; copy the cluster to one that has it (firn bucket copy), or set firn.object.lock.mode=none", open...)
	}
	if len(longer) > 0 {
		c.add(Costs, "", fmt.Sprintf("the bucket locks everything put into it for %s (%s), which is longer than records are kept: what firn deletes or merges stays and is paid for until then",
			days(c.inv.Lock.Days), strings.ToLower(c.inv.Lock.Mode)),
			"take the default retention off the bucket; topics that need a lock have firn.object.lock.mode", longer...)
	}
}

// classes tells of storage classes in which the store takes no objects.
func (c *checker) classes() {
	for _, class := range slices.Sorted(maps.Keys(c.inv.ClassErr)) {
		var ask []string
		for i := range c.topics {
			if c.topics[i].Settings.StorageClass == class {
				ask = append(ask, c.topics[i].Name)
			}
		}
		if len(ask) == 0 {
			continue
		}
		err := c.inv.ClassErr[class]
		if errors.Is(err, objstore.ErrDenied) {
			c.add(Unknown, "", fmt.Sprintf("whether the store has storage class %s, which firn.storage.class asks for, is not known: %v", class, err),
				"give firn's credentials s3:PutObject, in that class too", ask...)
			continue
		}
		c.add(Stops, "", fmt.Sprintf("the store takes no object in storage class %s, which firn.storage.class asks for, so its records are not merged: %v", class, err),
			"set firn.storage.class to a class that the store has, such as STANDARD", ask...)
	}
	for _, class := range slices.Sorted(maps.Keys(c.inv.MoveErr)) {
		if ask := Moving(c.topics, class); len(ask) > 0 {
			c.add(Costs, "", fmt.Sprintf("the store's lifecycle rules do not know storage class %s, which firn.storage.transition.class asks for, so its data stays in the class that it "+
				"is in; all other rules are written: %v", class, c.inv.MoveErr[class]),
				"set firn.storage.transition.class to one that the store's rules know, or add it to the store, which is asked again every hour", ask...)
		}
	}
}
