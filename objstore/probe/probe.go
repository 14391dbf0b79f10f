package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/objstore"
	"github.com/firnlog/firn/objstore/s3compat"
)

// prefix is where probes keep their objects; nothing else lies there.
const prefix = "probe/"

const (
	topicsPrefix = "topics/" // see metastore/entry.ObjectID
	ownRules     = "firn/"   // starts the names of rules that firn writes; see compaction/lifecycle
)

// Names of the checks.
const (
	put            = "put"
	get            = "get"
	getRange       = "get range"
	overwrite      = "overwrite"
	list           = "list"
	listAfterPut   = "list after put"
	head           = "head"
	conditionalPut = "conditional put"
	deleteOne      = "delete"
	deleteMany     = "delete many"
	absence        = "absence"
	expiryRules    = "expiry rules"
)

// Options are the tunables of a probe.
type Options struct {
	// Timeout bounds the probe. Default 10 s.
	Timeout time.Duration
	// Cleanup bounds deleting what the probe has put, after all else. Default 3 s.
	Cleanup time.Duration
}

// Run probes a bucket. name is how the report calls it. The bucket should be the driver itself: abilities beside
// objstore.Bucket are asked for too.
func Run(ctx context.Context, name string, bucket objstore.Bucket, o Options) Report {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Cleanup == 0 {
		o.Cleanup = 3 * time.Second
	}
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	own := prefix + strings.ToLower(rand.Text()) + "-" // no directory of its own: a file bucket would keep it
	p := &probing{ctx: bounded, bucket: bucket, timeout: o.Timeout, own: own, a: own + "a", b: own + "b", body: []byte("firn probes this bucket: " + own)}
	if warner, ok := bucket.(objstore.Warner); ok {
		p.report.Warnings = slices.Clone(warner.Warnings())
	}
	p.run()
	p.cleanUp(context.WithoutCancel(ctx), o.Cleanup)
	p.report.Bucket, p.report.Took = name, time.Since(began)
	return p.report
}

// probing is a probe under way.
type probing struct {
	ctx     context.Context // of this one run, which it does not outlive
	bucket  objstore.Bucket
	timeout time.Duration
	own     string // prefix of this probe's objects
	a, b    string // its objects
	body    []byte

	left   []string // keys that may still be there
	report Report
}

func (p *probing) run() {
	mend := "Give these credentials s3:PutObject on the prefix."
	err := p.put(p.a, p.body, objstore.PutOptions{})
	if errors.Is(err, objstore.ErrDenied) && !errors.Is(err, s3compat.ErrForbidden) { // no such bucket, or the keys are none of the store's
		mend = "Look at the name of the bucket, its region and the credentials, as the store says; where they are right, give them s3:PutObject on the prefix."
	}
	if !p.step(put, true, err, mend) {
		for _, name := range []string{get, getRange, overwrite, list, listAfterPut, head, conditionalPut, deleteOne, deleteMany, absence} {
			required := slices.Contains([]string{get, getRange, overwrite, list, absence}, name)
			p.add(Check{Name: name, Required: required, Verdict: NotMade})
		}
		p.expiries()
		return
	}
	p.step(get, true, p.holds(p.a, p.body), "Give these credentials s3:GetObject on the prefix; a proxy or cache before the store must not answer for it.")
	part, err := p.bucket.GetRange(p.ctx, p.a, 5, 6)
	if err == nil && !bytes.Equal(part, p.body[5:11]) {
		err = fmt.Errorf("%w: other bytes came back than were put", errWrong)
	}
	p.step(getRange, true, err, "The store, or a proxy before it, must honour the Range header.")
	again := append([]byte("again, "), p.body...)
	if err = p.put(p.a, again, objstore.PutOptions{}); err == nil {
		err = p.holds(p.a, again)
	}
	p.step(overwrite, true, err, "A put must replace what lies under its key, and a get after it must see the new object.")
	p.listing()
	info, err := p.bucket.Head(p.ctx, p.a)
	if err == nil && info.Size != int64(len(again)) {
		err = fmt.Errorf("%w: it says %d bytes, %d were put", errWrong, info.Size, len(again))
	}
	p.step(head, false, err, "firn does without.")
	p.conditional()
	p.deletes()
	p.expiries()
}

// errWrong: the store answered, and the answer is not right.
var errWrong = errors.New("wrong answer")

// put notes the key before it is put: after any error it may be there.
func (p *probing) put(key string, body []byte, opts objstore.PutOptions) error {
	if !slices.Contains(p.left, key) {
		p.left = append(p.left, key)
	}
	return p.bucket.Put(p.ctx, key, body, opts)
}

func (p *probing) holds(key string, body []byte) error {
	got, err := p.bucket.Get(p.ctx, key)
	if err == nil && !bytes.Equal(got, body) {
		err = fmt.Errorf("%w: %d bytes came back that are not the %d that were put", errWrong, len(got), len(body))
	}
	return err
}

func (p *probing) listing() {
	infos, err := p.bucket.List(p.ctx, p.own, "", 10)
	if !p.step(list, true, err, "Give these credentials s3:ListBucket on the bucket.") {
		p.add(Check{Name: listAfterPut, Verdict: NotMade})
		return
	}
	if len(infos) != 1 || infos[0].Key != p.a {
		err = fmt.Errorf("%w: an object that was put is not listed yet", errWrong)
	}
	p.step(listAfterPut, false, err, "firn does without: it never decides by a listing alone.")
}

func (p *probing) conditional() {
	const without = "firn does without: its keys are unique, a conditional put is a tripwire only."
	err := p.put(p.b, p.body, objstore.PutOptions{IfAbsent: true})
	if err == nil {
		switch err = p.bucket.Put(p.ctx, p.b, p.body, objstore.PutOptions{IfAbsent: true}); {
		case err == nil:
			err = fmt.Errorf("%w: the store ignores the condition", errWrong)
		case errors.Is(err, objstore.ErrExists):
			err = nil
		}
	} else if errors.Is(err, objstore.ErrExists) {
		// A repeated put that met itself: the driver saw an answer get lost.
		err = nil
	}
	p.step(conditionalPut, false, err, without)
}

func (p *probing) deletes() {
	const grows = "Give these credentials s3:DeleteObject on the prefix: until then the bucket only grows. firn starts all the same."
	err := p.bucket.Delete(p.ctx, p.b)
	if p.step(deleteOne, false, err, grows) {
		p.gone(p.b)
	}
	if err = p.bucket.Delete(p.ctx, p.a, p.b); p.step(deleteMany, false, err, grows) {
		p.gone(p.a)
	}
	_, err = p.bucket.Get(p.ctx, p.own+"never-was")
	switch {
	case errors.Is(err, objstore.ErrNotFound):
		err = nil
	case err == nil:
		err = fmt.Errorf("%w: an object came back that was never put", errWrong)
	}
	if p.step(absence, true, err, "Give these credentials s3:ListBucket on the bucket: without it a store answers \"forbidden\" for what is not there.") {
		p.stays()
	}
}

func (p *probing) gone(key string) {
	p.left = slices.DeleteFunc(p.left, func(k string) bool { return k == key })
}

// stays looks whether what was deleted still reads.
func (p *probing) stays() {
	if slices.Contains(p.left, p.a) {
		return // it was not deleted
	}
	if _, err := p.bucket.Get(p.ctx, p.a); err == nil {
		p.report.Warnings = append(p.report.Warnings, "an object still reads after its delete: a cache before the store answers for it")
	}
}

func (p *probing) expiries() {
	const mend = "Take the rule off firn's prefix, or narrow it to another one: it deletes records that firn has acknowledged."
	reader, ok := p.bucket.(objstore.ExpiryReader)
	if !ok {
		return // no store that has such rules
	}
	rules, err := reader.Expiries(p.ctx)
	if err != nil {
		verdict, detail := p.judge(err)
		p.add(Check{Name: expiryRules, Verdict: Unknown, Detail: fmt.Sprintf("%s: %s", verdict, detail),
			Mend: "Give these credentials s3:GetLifecycleConfiguration, or see to it yourself that no rule expires objects of firn's prefix."})
		return
	}
	check := Check{Name: expiryRules, Required: true, Verdict: OK}
	topics := "" // where objects lie that hold one topic each: what may go of them is for topics to say
	if named, ok := p.bucket.(interface{ KeyPrefix() string }); ok {
		topics = named.KeyPrefix() + topicsPrefix
	}
	var bad []string
	for _, r := range rules {
		rule := fmt.Sprintf("rule %q on prefix %q %s", r.Rule, r.Prefix, r.What)
		if r.TaggedOnly || topics != "" && strings.HasPrefix(r.Prefix, topics) {
			if !strings.HasPrefix(r.Rule, ownRules) {
				p.report.Warnings = append(p.report.Warnings, rule+"; whether that is right for the topics it meets, firn bucket check says")
			}
			continue
		}
		bad = append(bad, rule)
	}
	if len(bad) > 0 {
		check.Verdict, check.Detail, check.Mend = Wrong, strings.Join(bad, "; "), mend
	}
	p.add(check)
}

// step judges a step by its error, adds it to the report, and returns whether it passed.
func (p *probing) step(name string, required bool, err error, mend string) bool {
	check := Check{Name: name, Required: required, Verdict: OK}
	if err != nil {
		check.Verdict, check.Detail = p.judge(err)
		check.Detail = strings.TrimSuffix(check.Detail, ".") // the store's words may be a sentence
		check.Mend = mend
		if check.Verdict == Down {
			check.Mend = "Look at the endpoint, the network, TLS and the credentials' source; the store may also be asking for less load."
		}
	}
	p.add(check)
	return err == nil
}

func (p *probing) add(c Check) { p.report.Checks = append(p.report.Checks, c) }

func (p *probing) judge(err error) (Verdict, string) {
	switch {
	case p.ctx.Err() != nil:
		return Down, fmt.Sprintf("no answer within the %v of the probe: %v", p.timeout, err)
	case errors.Is(err, errWrong), errors.Is(err, objstore.ErrNotFound), errors.Is(err, objstore.ErrExists), errors.Is(err, objstore.ErrRange):
		return Wrong, err.Error()
	case errors.Is(err, objstore.ErrDenied):
		return Denied, err.Error()
	case errors.Is(err, objstore.ErrInvalid):
		return Missing, err.Error()
	}
	return Down, err.Error()
}

// cleanUp deletes what may still be there, though the probe's own time be over.
func (p *probing) cleanUp(ctx context.Context, timeout time.Duration) {
	switch p.report.Verdict(put) {
	case Down: // a store that did not take the first put within the timeout will not take a delete now
		return
	case Denied, Missing: // it has refused the first put: nothing is there
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, key := range p.left {
		if err := p.bucket.Delete(ctx, key); err != nil {
			p.report.Warnings = append(p.report.Warnings, fmt.Sprintf("the probe leaves objects below %s behind: %v", p.own, err))
			return
		}
	}
}
