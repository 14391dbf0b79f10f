package s3compat

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/objstore"
)

var (
	_ objstore.RuleStore    = (*Abilities)(nil)
	_ objstore.ExpiryReader = (*Abilities)(nil)
	_ objstore.Versioning   = (*Abilities)(nil)
	_ objstore.LockConfig   = (*Abilities)(nil)
	_ objstore.Tagger       = (*Abilities)(nil)
	_ objstore.Clock        = (*Abilities)(nil)
	_ objstore.VersionStore = (*Abilities)(nil)
)

// VersioningState implements objstore.Versioning.
func (a *Abilities) VersioningState(ctx context.Context) (objstore.VersioningState, error) {
	x := exchange{step: "read the state of versioning", action: "s3:GetBucketVersioning", method: http.MethodGet, query: url.Values{"versioning": {""}}}
	got, err := a.do(ctx, x)
	if err != nil {
		return "", err
	}
	var found struct {
		XMLName xml.Name `xml:"VersioningConfiguration"`
		Status  string
	}
	if err := parse(x.step, got, &found); err != nil {
		return "", err
	}
	switch state := objstore.VersioningState(found.Status); state {
	case objstore.VersioningOff, objstore.VersioningEnabled, objstore.VersioningSuspended:
		return state, nil
	}
	return "", fmt.Errorf("%s: %w: the store says %.40q", x.step, objstore.ErrUnavailable, found.Status)
}

// SetVersioning implements objstore.Versioning.
func (a *Abilities) SetVersioning(ctx context.Context, state objstore.VersioningState) error {
	if err := objstore.ValidateVersioning(state); err != nil {
		return fmt.Errorf("set the state of versioning: %w", err)
	}
	_, err := a.do(ctx, exchange{
		step: "set the state of versioning", action: "s3:PutBucketVersioning", method: http.MethodPut, query: url.Values{"versioning": {""}},
		body: render(struct {
			XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ VersioningConfiguration"`
			Status  objstore.VersioningState
		}{Status: state}),
	})
	return err
}

type xmlLock struct {
	XMLName xml.Name     `xml:"http://s3.amazonaws.com/doc/2006-03-01/ ObjectLockConfiguration"`
	Enabled string       `xml:"ObjectLockEnabled,omitempty"`
	Rule    *xmlLockRule `xml:"Rule"`
}

type xmlLockRule struct {
	Mode  objstore.LockMode `xml:"DefaultRetention>Mode,omitempty"`
	Days  int               `xml:"DefaultRetention>Days,omitempty"`
	Years int               `xml:"DefaultRetention>Years,omitempty"`
}

// LockSettings implements objstore.LockConfig.
func (a *Abilities) LockSettings(ctx context.Context) (objstore.LockSettings, error) {
	x := exchange{
		step: "read the lock settings", action: "s3:GetBucketObjectLockConfiguration", method: http.MethodGet, query: url.Values{"object-lock": {""}},
	}
	got, err := a.do(ctx, x)
	if said(err, "ObjectLockConfigurationNotFoundError") {
		return objstore.LockSettings{}, nil
	}
	if err != nil {
		return objstore.LockSettings{}, err
	}
	var found struct {
		XMLName xml.Name     `xml:"ObjectLockConfiguration"` // of any namespace: not all stores give one
		Enabled string       `xml:"ObjectLockEnabled"`
		Rule    *xmlLockRule `xml:"Rule"`
	}
	if err := parse(x.step, got, &found); err != nil {
		return objstore.LockSettings{}, err
	}
	settings := objstore.LockSettings{Enabled: found.Enabled == "Enabled"}
	if r := found.Rule; r != nil {
		settings.Mode, settings.Days, settings.Years = r.Mode, r.Days, r.Years
	}
	return settings, nil
}

// SetLockSettings implements objstore.LockConfig.
func (a *Abilities) SetLockSettings(ctx context.Context, settings objstore.LockSettings) error {
	const step = "set the lock settings"
	if err := objstore.ValidateLockSettings(settings); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if !settings.Enabled {
		return fmt.Errorf("%s: object lock stays enabled for good: %w", step, objstore.ErrInvalid)
	}
	body := xmlLock{Enabled: "Enabled"}
	if settings.Mode != objstore.LockNone {
		body.Rule = &xmlLockRule{Mode: settings.Mode, Days: settings.Days, Years: settings.Years}
	}
	_, err := a.do(ctx, exchange{
		step: step, action: "s3:PutBucketObjectLockConfiguration", method: http.MethodPut, query: url.Values{"object-lock": {""}}, body: render(body),
	})
	return err
}

// ObjectLock implements objstore.LockConfig.
func (a *Abilities) ObjectLock(ctx context.Context, key string) (objstore.Lock, error) {
	x := exchange{step: "read the lock of " + key, action: "s3:GetObjectRetention", method: http.MethodGet, key: key, query: url.Values{"retention": {""}}}
	if err := objstore.ValidateKey(key); err != nil {
		return objstore.Lock{}, fmt.Errorf("read a lock: %w", err)
	}
	got, err := a.do(ctx, x)
	var r *refusal
	if errors.As(err, &r) {
		// Where the bucket has no locks at all, there is no code for it either.
		withoutLocks := r.code == "InvalidRequest" && strings.Contains(strings.ToLower(r.message), "missing object")
		if r.code == "NoSuchObjectLockConfiguration" || withoutLocks {
			return objstore.Lock{}, nil
		}
	}
	if err != nil {
		return objstore.Lock{}, err
	}
	var found struct {
		XMLName xml.Name `xml:"Retention"`
		Mode    objstore.LockMode
		Until   string `xml:"RetainUntilDate"`
	}
	if err := parse(x.step, got, &found); err != nil {
		return objstore.Lock{}, err
	}
	until, err := time.Parse(time.RFC3339, found.Until)
	if found.Until != "" && err != nil {
		return objstore.Lock{}, fmt.Errorf("%s: %w: the store says until %.40q", x.step, objstore.ErrUnavailable, found.Until)
	}
	return objstore.Lock{Mode: found.Mode, Until: until}, nil
}

type xmlTagging struct {
	XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ Tagging"`
	Tags    []xmlTag `xml:"TagSet>Tag"`
}

// Tags implements objstore.Tagger.
func (a *Abilities) Tags(ctx context.Context, key string) ([]objstore.Tag, error) {
	x := exchange{step: "read the tags of " + key, action: "s3:GetObjectTagging", method: http.MethodGet, key: key, query: url.Values{"tagging": {""}}}
	if err := objstore.ValidateKey(key); err != nil {
		return nil, fmt.Errorf("read tags: %w", err)
	}
	got, err := a.do(ctx, x)
	if said(err, "NoSuchTagSet") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found struct {
		XMLName xml.Name `xml:"Tagging"`
		Tags    []xmlTag `xml:"TagSet>Tag"`
	}
	if err := parse(x.step, got, &found); err != nil {
		return nil, err
	}
	var tags []objstore.Tag
	for _, t := range found.Tags {
		tags = append(tags, objstore.Tag(t))
	}
	slices.SortFunc(tags, func(a, b objstore.Tag) int { return strings.Compare(a.Key, b.Key) })
	return tags, nil
}

// SetTags implements objstore.Tagger.
func (a *Abilities) SetTags(ctx context.Context, key string, tags []objstore.Tag) error {
	for _, err := range []error{objstore.ValidateKey(key), objstore.ValidateTags(tags)} {
		if err != nil {
			return fmt.Errorf("set tags: %w", err)
		}
	}
	body := xmlTagging{Tags: []xmlTag{}}
	for _, t := range tags {
		body.Tags = append(body.Tags, xmlTag(t))
	}
	raw := render(body)
	if len(tags) == 0 {
		raw = []byte(`<Tagging xmlns="` + namespace + `"><TagSet></TagSet></Tagging>`) // the encoder leaves an empty set out
	}
	_, err := a.do(ctx, exchange{
		step: "set the tags of " + key, action: "s3:PutObjectTagging", method: http.MethodPut, key: key, query: url.Values{"tagging": {""}}, body: raw,
	})
	return err
}

// Now implements objstore.Clock with the Date of an answer; what the answer is does not matter, and a refusal has one too.
func (a *Abilities) Now(ctx context.Context) (time.Time, error) {
	x := exchange{step: "read the store's clock", action: "s3:ListBucket", method: http.MethodHead}
	got, err := a.do(ctx, x)
	header := got.header
	if r := (*refusal)(nil); errors.As(err, &r) {
		header = r.header
	} else if err != nil {
		return time.Time{}, err
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w: its answer has the Date %.60q", x.step, objstore.ErrUnavailable, header.Get("Date"))
	}
	return now, nil
}

// ListVersions implements objstore.VersionStore.
func (a *Abilities) ListVersions(ctx context.Context, prefix, afterKey, afterID string, limit int) ([]objstore.Version, error) {
	const step = "list versions"
	if err := objstore.ValidateList(prefix, afterKey, limit); err != nil {
		return nil, fmt.Errorf("%s: %w", step, err)
	}
	keyMarker, idMarker := "", afterID
	if afterKey != "" {
		keyMarker = a.Gate.Prefix + afterKey
	}
	for range listRoundsMax {
		query := url.Values{"versions": {""}, "prefix": {a.Gate.Prefix + prefix}, "max-keys": {strconv.Itoa(limit)}, "encoding-type": {"url"}}
		if keyMarker != "" {
			query.Set("key-marker", keyMarker)
		}
		if idMarker != "" {
			query.Set("version-id-marker", idMarker)
		}
		got, err := a.do(ctx, exchange{step: step, action: "s3:ListBucketVersions", method: http.MethodGet, query: query})
		if err != nil {
			return nil, err
		}
		var page xmlVersions
		if err := parse(step, got, &page); err != nil {
			return nil, err
		}
		versions, err := page.versions(a.Gate.Prefix, prefix)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", step, err)
		}
		// An empty answer would tell the caller that there is no more, so a page with nothing of ours is not one.
		if len(versions) > 0 || !page.Truncated {
			return versions, nil
		}
		if keyMarker, err = page.name(page.NextKey); err != nil || keyMarker == "" {
			return nil, fmt.Errorf("%s: %w: the store promised more and said not where", step, objstore.ErrUnavailable)
		}
		idMarker = page.NextID
	}
	return nil, fmt.Errorf("%s: %w: %d pages without one valid key", step, objstore.ErrInvalid, listRoundsMax)
}

const listRoundsMax = 1000 // pages of one listing that hold nothing of ours

type xmlVersions struct {
	XMLName   xml.Name `xml:"ListVersionsResult"`
	Truncated bool     `xml:"IsTruncated"`
	Encoding  string   `xml:"EncodingType"`
	NextKey   string   `xml:"NextKeyMarker"`
	NextID    string   `xml:"NextVersionIdMarker"`
	Entries   []struct {
		XMLName xml.Name
		Key     string
		ID      string    `xml:"VersionId"`
		Latest  bool      `xml:"IsLatest"`
		Time    time.Time `xml:"LastModified"`
		Size    int64
		Class   string `xml:"StorageClass"`
	} `xml:",any"` // versions and markers, in one order
}

func (x *xmlVersions) name(text string) (string, error) {
	if x.Encoding != "url" {
		return text, nil
	}
	return url.QueryUnescape(text)
}

// versions leaves out what are no keys, such as the folders that consoles make.
func (x *xmlVersions) versions(own, prefix string) ([]objstore.Version, error) {
	var versions []objstore.Version
	for _, e := range x.Entries {
		marker := e.XMLName.Local == "DeleteMarker"
		if !marker && e.XMLName.Local != "Version" {
			continue
		}
		name, err := x.name(e.Key)
		key, ours := strings.CutPrefix(name, own)
		if err != nil || !ours || !strings.HasPrefix(key, prefix) {
			return nil, fmt.Errorf("the store listed %q, which lacks the prefix: %w", e.Key, objstore.ErrUnavailable)
		}
		if objstore.ValidateKey(key) != nil {
			continue
		}
		versions = append(versions, objstore.Version{
			Info: objstore.Info{Key: key, Size: e.Size, ModTime: e.Time}, ID: e.ID, Latest: e.Latest, DeleteMarker: marker, StorageClass: e.Class,
		})
	}
	return versions, nil
}

// DeleteVersion implements objstore.VersionStore.
func (a *Abilities) DeleteVersion(ctx context.Context, key, id string) error {
	if err := objstore.ValidateKey(key); err != nil {
		return fmt.Errorf("delete a version: %w", err)
	}
	step := "delete version " + id + " of " + key
	if id == "" {
		return fmt.Errorf("%s: no version is named, and the current one is not meant: %w", step, objstore.ErrInvalid)
	}
	_, err := a.do(ctx, exchange{step: step, action: "s3:DeleteObjectVersion", method: http.MethodDelete, key: key, query: url.Values{"versionId": {id}}})
	if errors.Is(err, objstore.ErrNotFound) {
		return nil
	}
	return err
}
