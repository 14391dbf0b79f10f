package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/firnlog/firn/cmd/firn/prices"
)

// counted is what agents counted, summed.
type counted struct {
	agents int
	hours  float64 // of the agent that runs longest
	notes  []string

	count, month        map[string]float64 // requests by kind, and at the rate seen so far
	puts                map[string]float64 // by the class that they asked for
	written, read, held map[string]float64 // bytes of records, by topic
	stored              map[string]float64 // bytes of objects, by class
	classed             map[string]shares  // bytes of merged objects by class, of topics that have some in another than STANDARD
}

// shares are amounts by storage class.
type shares map[string]float64

// of is the part that a class has.
func (s shares) of(class string) float64 {
	if all := sum(s); all > 0 {
		return s[class] / all
	}
	return 0
}

func newCounted() *counted {
	u := &counted{classed: make(map[string]shares)}
	for _, m := range []*map[string]float64{&u.count, &u.month, &u.puts, &u.written, &u.read, &u.held, &u.stored} {
		*m = make(map[string]float64)
	}
	return u
}

// add takes what one agent said.
func (u *counted) add(s *scrape, now time.Time) {
	u.agents++
	until, hours := s.at, 0.0
	if until.IsZero() {
		until = now
	}
	s.each("process_start_time_seconds", "", func(_ string, start float64) { hours = until.Sub(time.Unix(int64(start), 0)).Hours() })
	if hours <= 0 {
		u.notes = append(u.notes, s.source+" does not say when it started (process_start_time_seconds): its requests are in no month")
	}
	u.hours = max(u.hours, hours)
	s.each("firn_objectstore_requests_total", "op", func(op string, n float64) {
		u.count[kindOf(op)] += n
		if hours > 0 {
			u.month[kindOf(op)] += n / hours * hoursPerMonth
		}
	})
	s.each("firn_objectstore_puts_total", "storage_class", func(class string, n float64) { u.puts[class] += n })
	s.each("firn_topic_produced_bytes_total", "topic", func(topic string, n float64) { u.written[topic] += n })
	s.each("firn_topic_fetched_bytes_total", "topic", func(topic string, n float64) { u.read[topic] += n })
	s.each("firn_topic_log_bytes", "topic", func(topic string, n float64) { u.held[topic] = max(u.held[topic], n) }) // every agent tells of all
	s.each("firn_bucket_stored_bytes", "storage_class", func(class string, n float64) { u.stored[class] = max(u.stored[class], n) })
	s.pairs("firn_bucket_topic_stored_bytes", "topic", "storage_class", func(topic, class string, n float64) {
		if u.classed[topic] == nil {
			u.classed[topic] = make(shares)
		}
		u.classed[topic][class] = max(u.classed[topic][class], n)
	})
}

// classes are those that objects lie in or were put in, STANDARD first.
func (u *counted) classes() []string {
	found := make(map[string]bool)
	for _, m := range []map[string]float64{u.stored, u.puts} {
		for class := range m {
			found[class] = true
		}
	}
	for _, m := range u.classed {
		for class := range m {
			found[class] = true
		}
	}
	delete(found, prices.Standard)
	return append([]string{prices.Standard}, slices.Sorted(maps.Keys(found))...)
}

// topics are all that were written, read or hold records.
func (u *counted) topics() []string {
	names := make(map[string]bool)
	for _, m := range []map[string]float64{u.written, u.read, u.held} {
		for name := range m {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// liesIn says in which classes a topic's objects lie.
func (u *counted) liesIn(topic string) shares {
	switch s := u.classed[topic]; {
	case s != nil:
		return s
	case len(u.classed) > 0 || sum(u.stored) == 0:
		return shares{prices.Standard: 1}
	}
	return u.stored // no agent tells of topics: all alike
}

func (u *counted) note(format string, args ...any) {
	u.notes = append(u.notes, fmt.Sprintf(format, args...))
}

// price is what it costs.
func (u *counted) price(pay *prices.Table, old *oldVersions) *costView {
	v := &costView{Prices: pay, Agents: u.agents, Hours: u.hours, Requests: []requestCost{}, Stored: []storedCost{}, Topics: []topicCost{}}
	if len(u.stored) == 0 && sum(u.held) > 0 {
		u.stored[prices.Standard] = sum(u.held)
		u.note("no agent tells what lies in the bucket (firn_bucket_stored_bytes): bytes of records stand in for it, all of class STANDARD")
	}
	classes := u.classes()
	for _, class := range classes {
		if _, known := pay.Classes[class]; !known {
			u.note("class %s is not in the price table, and counted as STANDARD", class)
		}
	}
	if len(classes) > 1 {
		u.assume()
	}
	puts, gets := shares(u.puts), make(shares)
	if sum(puts) == 0 {
		puts = shares{prices.Standard: 1}
	}
	for topic, n := range u.read {
		for class := range u.liesIn(topic) {
			gets[class] += n * u.liesIn(topic).of(class)
		}
	}
	if sum(gets) == 0 {
		gets = shares{prices.Standard: 1}
	}
	for _, kind := range prices.Kinds() {
		add := func(class string, share float64) {
			price := pay.Request(kind, cmp.Or(class, prices.Standard)) / 1000
			r := requestCost{Kind: kind, Class: class, Count: u.count[kind] * share, Cost: u.count[kind] * share * price, Month: u.month[kind] * share * price}
			v.Requests = append(v.Requests, r)
			v.Month += r.Month
		}
		by := map[string]shares{"put": puts, "get": gets}[kind]
		if by == nil {
			add("", 1)
			continue
		}
		for _, class := range classes {
			if share := by.of(class); share > 0 || class == prices.Standard {
				add(class, share)
			}
		}
	}
	live, past := u.storage(v, pay, old)
	v.Month += live + past
	u.priceTopics(v, pay, live, past, puts)
	slices.Sort(u.notes)
	v.Notes = slices.Compact(u.notes)
	return v
}

// assume says what counters leave open about classes.
func (u *counted) assume() {
	if sum(u.puts) == 0 {
		u.note("no agent tells which class puts asked for (firn_objectstore_puts_total): they are priced as those of STANDARD")
	} else {
		u.note("puts of a storage class are shared over the topics that have objects of it, by bytes written")
	}
	if len(u.classed) == 0 {
		u.note("no agent tells which topics' objects lie in which storage class (firn_bucket_topic_stored_bytes): reads of every topic are spread over classes as the bytes stored are")
	} else {
		u.note("gets are shared over topics by bytes read, and over a topic's storage classes by the bytes that lie in each: who reads the newest records alone pays less for moved ones")
	}
}

// storage prices what lies in the bucket: what is live, and old versions.
func (u *counted) storage(v *costView, pay *prices.Table, old *oldVersions) (live, past float64) {
	add := func(class string, isOld bool, n float64) float64 {
		c := storedCost{Class: class, Old: isOld, Bytes: n, Month: n / gib * priceOf(pay, class).Month}
		v.Stored = append(v.Stored, c)
		return c.Month
	}
	for class, n := range u.stored {
		live += add(class, false, n)
	}
	if old == nil {
		u.note("old versions that the bucket may keep are not counted: name it with --versions-of")
	} else {
		for class, n := range old.bytes {
			if _, known := pay.Classes[class]; !known {
				u.note("class %s is not in the price table, and counted as STANDARD", class)
			}
			past += add(class, true, n)
		}
		if old.note != "" {
			u.note("%s", old.note)
		}
	}
	slices.SortFunc(v.Stored, func(a, b storedCost) int {
		if a.Old != b.Old { // old versions last
			return cmp.Compare(fmt.Sprint(a.Old), fmt.Sprint(b.Old))
		}
		return cmp.Compare(a.Class, b.Class)
	})
	return live, past
}

func priceOf(pay *prices.Table, class string) prices.Class {
	if price, known := pay.Classes[class]; known {
		return price
	}
	return pay.Classes[prices.Standard]
}

// priceTopics shares storage, live and past, and requests over topics.
func (u *counted) priceTopics(v *costView, pay *prices.Table, live, past float64, puts shares) {
	// What lies in known classes is a topic's own; the rest, level 0 with it, is shared by bytes of records.
	own, shared := make(map[string]float64), live
	rest := 0.0 // bytes of records that share it
	for _, topic := range u.topics() {
		for class, n := range u.classed[topic] {
			own[topic] += n / gib * priceOf(pay, class).Month
		}
		shared -= own[topic]
		if u.classed[topic] == nil {
			rest += u.held[topic]
		}
	}
	shared = max(shared, 0)
	everybody := rest == 0
	if everybody {
		rest = sum(u.held)
	}
	held, read := sum(u.held), sum(u.read)

	// Puts of a class, over those that have objects of it, or over all.
	writes := make(map[string]float64) // bytes written by topics that share a class's puts
	pays := func(topic, class string) bool { return class == prices.Standard || u.liesIn(topic)[class] > 0 }
	for class := range puts {
		for topic, n := range u.written {
			if pays(topic, class) {
				writes[class] += n
			}
		}
	}
	lists := (u.count["list"]*pay.Requests["list"] + u.count["delete"]*pay.Requests["delete"]) / 1000
	for _, topic := range u.topics() {
		t := topicCost{Topic: topic, StoredBytes: u.held[topic], WrittenBytes: u.written[topic], ReadBytes: u.read[topic]}
		if t.StoredBytes > 0 {
			t.StoredMonth = own[topic] + past*t.StoredBytes/held
			if everybody || u.classed[topic] == nil {
				t.StoredMonth += shared * t.StoredBytes / rest
			}
			t.PerGiBMonth = per(t.StoredMonth, t.StoredBytes)
		}
		if t.WrittenBytes > 0 {
			cost := lists * t.WrittenBytes / sum(u.written)
			for class := range puts {
				whole := u.count["put"] * puts.of(class) * pay.Request("put", class) / 1000
				switch {
				case writes[class] == 0:
					cost += whole * t.WrittenBytes / sum(u.written)
				case pays(topic, class):
					cost += whole * t.WrittenBytes / writes[class]
				}
			}
			t.PerGiBWritten = per(cost, t.WrittenBytes)
		}
		if t.ReadBytes > 0 {
			cost := t.ReadBytes / gib * pay.Transfer
			in := u.liesIn(topic)
			for class := range in {
				cost += in.of(class) * (u.count["get"]*t.ReadBytes/read*pay.Request("get", class)/1000 + t.ReadBytes/gib*priceOf(pay, class).Read)
			}
			t.PerGiBRead = per(cost, t.ReadBytes)
		}
		v.Topics = append(v.Topics, t)
	}
	slices.SortFunc(v.Topics, func(a, b topicCost) int {
		return cmp.Or(cmp.Compare(b.StoredMonth, a.StoredMonth), cmp.Compare(a.Topic, b.Topic))
	})
}
