package s3compat

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/firnlog/firn/objstore"
)

const (
	namespace       = "http://s3.amazonaws.com/doc/2006-03-01/"
	lifecycleHeader = "X-Amz-Transition-Default-Minimum-Object-Size" // a setting of the bucket's that travels with its rules
	noRules         = "NoSuchLifecycleConfiguration"
)

var lifecycleQuery = url.Values{"lifecycle": {""}}

// KeyPrefix implements objstore.RuleStore.
func (a *Abilities) KeyPrefix() string { return a.Gate.Prefix }

// Rules implements objstore.RuleStore.
func (a *Abilities) Rules(ctx context.Context) ([]objstore.Rule, error) {
	rules, _, err := a.rules(ctx)
	return rules, err
}

func (a *Abilities) rules(ctx context.Context) ([]objstore.Rule, http.Header, error) {
	x := exchange{step: "read the lifecycle rules", action: "s3:GetLifecycleConfiguration", method: http.MethodGet, query: lifecycleQuery}
	got, err := a.do(ctx, x)
	if said(err, noRules) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	rules, err := parseRules(got.body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", x.step, err)
	}
	return rules, got.header, nil
}

// SetRules implements objstore.RuleStore.
func (a *Abilities) SetRules(ctx context.Context, rules []objstore.Rule) error {
	x := exchange{step: "set the lifecycle rules", action: "s3:PutLifecycleConfiguration", method: http.MethodPut, query: lifecycleQuery}
	body, err := renderRules(rules)
	if err != nil {
		return fmt.Errorf("%s: %w", x.step, err)
	}
	_, header, err := a.rules(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", x.step, err)
	}
	if value := header.Get(lifecycleHeader); value != "" {
		x.header = http.Header{lifecycleHeader: {value}}
	}
	if x.body = body; len(rules) == 0 {
		x.method, x.body, x.header = http.MethodDelete, nil, nil // an empty configuration is refused
	}
	_, err = a.do(ctx, x)
	return err
}

// The XML of rules. What has no field here lands in Other, and makes a rule one that cannot be changed.
type (
	other struct{ XMLName xml.Name }

	xmlRule struct {
		ID         string          `xml:"ID,omitempty"`
		Prefix     *string         `xml:"Prefix"` // of rules from before there were filters
		Filter     *xmlFilter      `xml:"Filter"`
		Status     string          `xml:"Status"`
		Expiration *xmlExpiration  `xml:"Expiration"`
		Moves      []xmlTransition `xml:"Transition"`
		Noncurrent *xmlNoncurrent  `xml:"NoncurrentVersionExpiration"`
		OldMoves   []xmlNoncurrent `xml:"NoncurrentVersionTransition"`
		Abort      *xmlAbort       `xml:"AbortIncompleteMultipartUpload"`
		Other      []other         `xml:",any"`
		Inner      string          `xml:",innerxml"`
	}
	xmlFilter struct {
		Prefix *string    `xml:"Prefix"`
		Tags   []xmlTag   `xml:"Tag"`
		Above  int64      `xml:"ObjectSizeGreaterThan,omitempty"`
		Below  int64      `xml:"ObjectSizeLessThan,omitempty"`
		And    *xmlFilter `xml:"And"`
		Other  []other    `xml:",any"`
	}
	xmlTag struct {
		Key   string
		Value string
	}
	xmlExpiration struct {
		Days    int     `xml:"Days,omitempty"`
		Date    string  `xml:"Date,omitempty"`
		Markers bool    `xml:"ExpiredObjectDeleteMarker,omitempty"`
		Other   []other `xml:",any"`
	}
	xmlTransition struct {
		Days  *int    `xml:"Days"`
		Date  string  `xml:"Date,omitempty"`
		Class string  `xml:"StorageClass"`
		Other []other `xml:",any"`
	}
	xmlNoncurrent struct {
		Days  int     `xml:"NoncurrentDays,omitempty"`
		Keep  int     `xml:"NewerNoncurrentVersions,omitempty"`
		Class string  `xml:"StorageClass,omitempty"`
		Other []other `xml:",any"`
	}
	xmlAbort struct {
		Days  int     `xml:"DaysAfterInitiation"`
		Other []other `xml:",any"`
	}
)

func parseRules(body []byte) ([]objstore.Rule, error) {
	var found struct {
		XMLName xml.Name  `xml:"LifecycleConfiguration"`
		Rules   []xmlRule `xml:"Rule"`
	}
	if err := xml.Unmarshal(body, &found); err != nil {
		return nil, fmt.Errorf("%w: the store answered something else: %v", objstore.ErrUnsupported, err)
	}
	rules := make([]objstore.Rule, len(found.Rules))
	for i := range found.Rules {
		rules[i] = found.Rules[i].rule()
		rules[i].Raw = []byte("<Rule>" + found.Rules[i].Inner + "</Rule>")
	}
	return rules, nil
}

// rule is what the XML says, as far as objstore.Rule has places for it.
func (x *xmlRule) rule() objstore.Rule {
	r := objstore.Rule{ID: x.ID, Enabled: x.Status == "Enabled"}
	unknown := func(path string, others []other) {
		for _, o := range others {
			r.Unknown = append(r.Unknown, path+o.XMLName.Local)
		}
	}
	date := func(path, text string) time.Time {
		t, err := time.Parse(time.RFC3339, text)
		if text != "" && err != nil {
			r.Unknown = append(r.Unknown, path)
		}
		return t
	}
	unknown("", x.Other)
	if x.Status != "Enabled" && x.Status != "Disabled" {
		r.Unknown = append(r.Unknown, "Status")
	}
	if x.Prefix != nil {
		r.Filter.Prefix = *x.Prefix
	}
	if f := x.Filter; f != nil {
		unknown("Filter/", f.Other)
		if f.And != nil {
			f = f.And
			unknown("Filter/And/", f.Other)
			if f.And != nil {
				r.Unknown = append(r.Unknown, "Filter/And/And")
			}
		}
		if f.Prefix != nil {
			r.Filter.Prefix = *f.Prefix
		}
		for _, t := range f.Tags {
			r.Filter.Tags = append(r.Filter.Tags, objstore.Tag(t))
		}
		r.Filter.SizeAbove, r.Filter.SizeBelow = f.Above, f.Below
	}
	if e := x.Expiration; e != nil {
		unknown("Expiration/", e.Other)
		r.Expiration = objstore.Expiration{Days: e.Days, Date: date("Expiration/Date", e.Date), DeleteMarkers: e.Markers}
	}
	for _, m := range x.Moves {
		unknown("Transition/", m.Other)
		t := objstore.Transition{Date: date("Transition/Date", m.Date), Class: m.Class}
		if m.Days != nil {
			t.Days = *m.Days
		}
		r.Transitions = append(r.Transitions, t)
	}
	if n := x.Noncurrent; n != nil {
		unknown("NoncurrentVersionExpiration/", n.Other)
		r.NoncurrentExpiration = objstore.NoncurrentExpiration{Days: n.Days, Keep: n.Keep}
	}
	for _, n := range x.OldMoves {
		unknown("NoncurrentVersionTransition/", n.Other)
		r.NoncurrentTransitions = append(r.NoncurrentTransitions, objstore.NoncurrentTransition{Days: n.Days, Keep: n.Keep, Class: n.Class})
	}
	if x.Abort != nil {
		unknown("AbortIncompleteMultipartUpload/", x.Abort.Other)
		r.AbortUploadsDays = x.Abort.Days
	}
	return r
}

// renderRules writes rules as XML: those that a store gave and nobody changed as they came, the others from their fields.
func renderRules(rules []objstore.Rule) ([]byte, error) {
	if err := objstore.ValidateRules(rules); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(`<LifecycleConfiguration xmlns="` + namespace + `">`)
	for i, r := range rules {
		if len(r.Raw) > 0 {
			same, err := unchanged(r)
			if err != nil {
				return nil, fmt.Errorf("lifecycle rule %d (%.60q): %w", i, r.ID, err)
			}
			if same {
				b.Write(r.Raw)
				continue
			}
			r.Raw = nil
			if err := objstore.ValidateRules([]objstore.Rule{r}); err != nil {
				return nil, fmt.Errorf("lifecycle rule %d was changed: %w", i, err)
			}
		}
		b.Write(renderRule(r))
	}
	b.WriteString(`</LifecycleConfiguration>`)
	return b.Bytes(), nil
}

// unchanged reports whether the fields of a rule still say what its Raw does.
func unchanged(r objstore.Rule) (bool, error) {
	var was xmlRule
	if err := xml.Unmarshal(r.Raw, &was); err != nil {
		return false, fmt.Errorf("its raw form is no XML: %w: %v", objstore.ErrInvalid, err)
	}
	return was.rule().SameAs(r), nil
}

func renderRule(r objstore.Rule) []byte {
	x := struct {
		XMLName xml.Name `xml:"Rule"`
		xmlRule
	}{xmlRule: xmlRule{ID: r.ID, Filter: renderFilter(r.Filter), Status: "Disabled"}}
	if r.Enabled {
		x.Status = "Enabled"
	}
	if e := r.Expiration; e != (objstore.Expiration{}) {
		x.Expiration = &xmlExpiration{Days: e.Days, Date: renderDate(e.Date), Markers: e.DeleteMarkers}
	}
	for _, t := range r.Transitions {
		move := xmlTransition{Class: t.Class, Date: renderDate(t.Date)}
		if t.Date.IsZero() {
			move.Days = &t.Days // 0 is a number of days too
		}
		x.Moves = append(x.Moves, move)
	}
	if n := r.NoncurrentExpiration; n != (objstore.NoncurrentExpiration{}) {
		x.Noncurrent = &xmlNoncurrent{Days: n.Days, Keep: n.Keep}
	}
	for _, n := range r.NoncurrentTransitions {
		x.OldMoves = append(x.OldMoves, xmlNoncurrent{Days: n.Days, Keep: n.Keep, Class: n.Class})
	}
	if r.AbortUploadsDays > 0 {
		x.Abort = &xmlAbort{Days: r.AbortUploadsDays}
	}
	return render(x)
}

// renderFilter uses And where more than one thing is asked for, as the protocol wants it.
func renderFilter(f objstore.Filter) *xmlFilter {
	x := &xmlFilter{Above: f.SizeAbove, Below: f.SizeBelow}
	asked := len(f.Tags)
	for _, t := range f.Tags {
		x.Tags = append(x.Tags, xmlTag(t))
	}
	for _, is := range []bool{f.Prefix != "", f.SizeAbove > 0, f.SizeBelow > 0} {
		if is {
			asked++
		}
	}
	if f.Prefix != "" || asked == 0 {
		x.Prefix = &f.Prefix
	}
	if asked > 1 {
		return &xmlFilter{And: x}
	}
	return x
}

func renderDate(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// asleep are the storage classes whose objects have to be restored before they can be read.
func asleep(class string) bool { return class == "GLACIER" || class == "DEEP_ARCHIVE" }

// Expiries implements objstore.ExpiryReader.
func (a *Abilities) Expiries(ctx context.Context) ([]objstore.Expiry, error) {
	rules, err := a.Rules(ctx)
	if err != nil {
		return nil, err
	}
	return expiries(rules, a.Gate.Prefix), nil
}

// expiries are the rules that take away objects below prefix.
func expiries(rules []objstore.Rule, prefix string) []objstore.Expiry {
	var found []objstore.Expiry
	for _, r := range rules {
		overlaps := strings.HasPrefix(r.Filter.Prefix, prefix) || strings.HasPrefix(prefix, r.Filter.Prefix)
		if !r.Enabled || !overlaps {
			continue
		}
		e := objstore.Expiry{Rule: r.ID, Prefix: r.Filter.Prefix, TaggedOnly: len(r.Filter.Tags) > 0}
		switch {
		case r.Expiration.Days > 0:
			e.What = fmt.Sprintf("deletes after %d days", r.Expiration.Days)
		case !r.Expiration.Date.IsZero():
			e.What = "deletes on " + r.Expiration.Date.Format(time.DateOnly)
		default:
			for _, t := range r.Transitions {
				if asleep(t.Class) {
					e.What = fmt.Sprintf("moves to %s after %d days, where it cannot be read", t.Class, t.Days)
				}
			}
		}
		if e.What != "" {
			found = append(found, e)
		}
	}
	return found
}
