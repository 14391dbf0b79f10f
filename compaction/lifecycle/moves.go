package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/firnlog/firn/objstore"
)

// A store refuses a whole set of rules for one transition to a storage class that its rules do not know, and may not say which that is. What
// follows finds out, so that the other rules are written, and the rest of that rule, too.

// LeaveOut is the plan without transitions to these classes: rules that do nothing else are not written.
func (p *Plan) LeaveOut(classes map[string]error) *Plan {
	if len(classes) == 0 {
		return p
	}
	q := &Plan{Remove: slices.Clone(p.Remove), Held: p.Held, Foreign: p.Foreign}
	for _, r := range p.Add {
		if r, _, does := r.leaveOut(classes); does {
			q.Add = append(q.Add, r)
		}
	}
	for _, r := range p.Keep {
		switch less, changed, does := r.leaveOut(classes); {
		case !changed:
			q.Keep = append(q.Keep, r)
		case does:
			q.Change = append(q.Change, Change{r, less})
		default:
			q.Remove = append(q.Remove, r)
		}
	}
	for _, c := range p.Change {
		switch less, _, does := c.To.leaveOut(classes); {
		case !does:
			q.Remove = append(q.Remove, c.From)
		case c.From.same(&less):
			q.Keep = append(q.Keep, c.From)
		default:
			q.Change = append(q.Change, Change{c.From, less})
		}
	}
	return q
}

// leaveOut is the rule without transitions to these classes; does is false where nothing is left of it.
func (r Rule) leaveOut(classes map[string]error) (less Rule, changed, does bool) {
	kept := slices.DeleteFunc(slices.Clone(r.Moves), func(m Move) bool { return classes[m.Class] != nil })
	if len(kept) == len(r.Moves) {
		return r, false, true
	}
	r.Moves, r.raw = kept, nil
	return r, true, r.expires() || len(kept) > 0
}

// moves are the classes that the plan's own rules move objects to, sorted.
func (p *Plan) moves() []string {
	found := make(map[string]bool)
	add := func(r *Rule) {
		for _, m := range r.Moves {
			found[m.Class] = true
		}
	}
	for i := range p.Add {
		add(&p.Add[i])
	}
	for i := range p.Keep {
		add(&p.Keep[i])
	}
	for i := range p.Change {
		add(&p.Change[i].To)
	}
	return slices.Sorted(maps.Keys(found))
}

// WriteRules carries a plan out, without the transitions to classes in unknown. Where the store refuses it for a class, the rules that move
// nothing are written first, and then class by class those that the store takes; unknown has the others when it returns, at most
// classesMax of which were tried. It says what was written. Errors: the store's; where it refuses rules without transitions, too, that refusal.
func WriteRules(ctx context.Context, store Store, plan *Plan, unknown map[string]error) (written *Plan, err error) {
	written = plan.LeaveOut(unknown)
	if !written.Changed() {
		return written, nil
	}
	err = store.SetRules(ctx, written.Rules())
	if !errors.Is(err, objstore.ErrStorageClass) {
		return written, err
	}
	refusal, classes := err, written.moves()
	for _, class := range classes {
		unknown[class] = refusal
	}
	if written = plan.LeaveOut(unknown); written.Changed() {
		if err := store.SetRules(ctx, written.Rules()); err != nil {
			return nil, err
		}
	}
	for _, class := range classes[:min(len(classes), classesMax)] {
		delete(unknown, class)
		more := plan.LeaveOut(unknown)
		switch err := store.SetRules(ctx, more.Rules()); {
		case err == nil:
			written = more
		case errors.Is(err, objstore.ErrStorageClass):
			unknown[class] = err
		default:
			unknown[class] = err
			return nil, err
		}
	}
	return written, nil
}

// movesTo names the classes that topics' rules move to, each with one of its topics.
func movesTo(topics []Topic) string {
	byClass := make(map[string]string)
	for i := range topics {
		if c := classOf(topics[i].Label()); c.MoveTo != "" {
			byClass[c.MoveTo] = topics[i].Name
		}
	}
	var list []string
	for _, class := range slices.Sorted(maps.Keys(byClass)) {
		list = append(list, fmt.Sprintf("topic %s asks for %s", byClass[class], class))
	}
	return strings.Join(list, ", ")
}

// Moving are the topics of which a rule moves objects to a class, by name.
func Moving(topics []Topic, class string) (names []string) {
	for i := range topics {
		if classOf(topics[i].Label()).MoveTo == class {
			names = append(names, topics[i].Name)
		}
	}
	return names
}
