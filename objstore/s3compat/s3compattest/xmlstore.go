package s3compattest

import (
	"bytes"
	"crypto/md5" // Content-MD5 is the checksum that every store knows, not a defence
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// xmlStore is FakeStore with what S3 says in XML about a bucket beside its objects: rules, versions, locks and tags. It keeps
// rules as they were written.
type xmlStore struct {
	objects http.Handler // the current objects

	mu          sync.Mutex // guards the rest, over calls of objects
	lifecycle   []byte     // nil for none
	minimumSize string     // header that travels with them
	versioning  string
	locking     bool
	lockRules   []byte
	versions    map[string][]*version // of a key, the newest first
	made        int
}

type version struct {
	id     string
	size   int
	marker bool
	body   []byte
	tags   []byte // XML of the set
	mode   string
	until  string
}

func newXMLStore(t *testing.T, locking bool) *xmlStore {
	s := &xmlStore{objects: fakeStore(t), locking: locking, versions: make(map[string][]*version)}
	if locking {
		s.versioning = "Enabled"
	}
	return s
}

func (s *xmlStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	query := r.URL.Query()
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/"+bucketName), "/")
	refuse := func(status int, code, message string) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code><Message>"+message+"</Message></Error>")
	}
	if sum := md5.Sum(body); r.URL.RawQuery != "" && !query.Has("x-id") && r.Method == http.MethodPut && r.Header.Get("Content-MD5") != base64.StdEncoding.EncodeToString(sum[:]) {
		refuse(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
		return
	}
	of := s.versions[key]
	current := len(of) > 0 && !of[0].marker
	switch {
	case query.Has("lifecycle"):
		s.serveLifecycle(w, r, body, refuse)
	case query.Has("versioning") && r.Method == http.MethodPut:
		s.versioning = between(body, "Status")
	case query.Has("versioning"):
		_, _ = fmt.Fprintf(w, `<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>%s</Status></VersioningConfiguration>`, s.versioning)
	case query.Has("object-lock") && !s.locking && r.Method == http.MethodPut:
		refuse(409, "InvalidBucketState", "Object Lock configuration cannot be enabled on existing buckets")
	case query.Has("object-lock") && !s.locking:
		refuse(404, "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket")
	case query.Has("object-lock") && r.Method == http.MethodPut:
		s.lockRules = body
	case query.Has("object-lock") && s.lockRules == nil:
		_, _ = io.WriteString(w, "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>")
	case query.Has("object-lock"):
		_, _ = w.Write(s.lockRules)
	case query.Has("versions"):
		s.serveVersions(w, query)
	case query.Has("versionId"):
		i := slices.IndexFunc(of, func(v *version) bool { return v.id == query.Get("versionId") })
		if i >= 0 && of[i].mode != "" {
			refuse(403, "AccessDenied", "Access Denied because object protected by object lock.")
			return
		}
		if i >= 0 {
			s.versions[key] = slices.Delete(of, i, i+1)
			s.show(key)
		}
		w.WriteHeader(http.StatusNoContent)
	case (query.Has("tagging") || query.Has("retention")) && !current:
		refuse(404, "NoSuchKey", "The specified key does not exist.")
	case query.Has("tagging") && r.Method == http.MethodPut:
		of[0].tags = []byte(between(body, "TagSet"))
	case query.Has("tagging"):
		_, _ = fmt.Fprintf(w, "<Tagging><TagSet>%s</TagSet></Tagging>", of[0].tags)
	case query.Has("retention") && !s.locking:
		refuse(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
	case query.Has("retention") && of[0].mode == "":
		refuse(404, "NoSuchObjectLockConfiguration", "The specified object does not have a ObjectLock configuration")
	case query.Has("retention"):
		_, _ = fmt.Fprintf(w, "<Retention><Mode>%s</Mode><RetainUntilDate>%s</RetainUntilDate></Retention>", of[0].mode, of[0].until)
	case r.Method == http.MethodPut && r.Header.Get("x-amz-object-lock-mode") != "" && !s.locking:
		refuse(400, "InvalidRequest", "Bucket is missing Object Lock Configuration")
	case r.Method == http.MethodPut && key != "":
		v := &version{size: len(body), body: body, mode: r.Header.Get("x-amz-object-lock-mode"), until: r.Header.Get("x-amz-object-lock-retain-until-date")}
		tags, _ := url.ParseQuery(r.Header.Get("x-amz-tagging"))
		for name := range tags {
			v.tags = fmt.Appendf(v.tags, "<Tag><Key>%s</Key><Value>%s</Value></Tag>", name, tags.Get(name))
		}
		s.add(key, v)
		s.objects.ServeHTTP(w, r)
	case r.Method == http.MethodDelete && key != "":
		if s.add(key, &version{marker: true}); s.versioning == "" {
			delete(s.versions, key)
		}
		s.objects.ServeHTTP(w, r)
	default:
		s.objects.ServeHTTP(w, r)
	}
}

// add makes v the current version.
func (s *xmlStore) add(key string, v *version) {
	s.made++
	v.id = fmt.Sprintf("v%03d", s.made)
	if s.versioning == "" {
		s.versions[key] = nil
	}
	s.versions[key] = slices.Insert(s.versions[key], 0, v)
}

// show gives the current objects what the versions of a key say.
func (s *xmlStore) show(key string) {
	method, body := http.MethodDelete, []byte(nil)
	if of := s.versions[key]; len(of) > 0 && !of[0].marker {
		method, body = http.MethodPut, of[0].body
	}
	r := httptest.NewRequest(method, "/"+bucketName+"/"+key, bytes.NewReader(body))
	r.Header.Set("Content-Length", strconv.Itoa(len(body))) // the store looks for it there
	w := httptest.NewRecorder()
	s.objects.ServeHTTP(w, r)
	if w.Code/100 != 2 {
		panic(fmt.Sprintf("%s %s: %d %s", method, key, w.Code, w.Body))
	}
}

func (s *xmlStore) serveLifecycle(w http.ResponseWriter, r *http.Request, body []byte, refuse func(int, string, string)) {
	var sent struct {
		XMLName xml.Name   `xml:"http://s3.amazonaws.com/doc/2006-03-01/ LifecycleConfiguration"`
		Rules   []struct{} `xml:"Rule"`
	}
	switch {
	case r.Method == http.MethodDelete:
		s.lifecycle = nil
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut && (xml.Unmarshal(body, &sent) != nil || len(sent.Rules) == 0):
		refuse(400, "MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema")
	case r.Method == http.MethodPut:
		s.lifecycle, s.minimumSize = body, r.Header.Get("x-amz-transition-default-minimum-object-size")
	case s.lifecycle == nil:
		refuse(404, "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")
	default:
		w.Header().Set("x-amz-transition-default-minimum-object-size", s.minimumSize)
		_, _ = w.Write(s.lifecycle)
	}
}

func (s *xmlStore) serveVersions(w http.ResponseWriter, query url.Values) {
	limit, _ := strconv.Atoi(query.Get("max-keys"))
	keys := make([]string, 0, len(s.versions))
	for key := range s.versions {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var entries []string
	nextKey, nextID, truncated := "", "", false
	past := false // the marker's own version of its key
	for _, key := range keys {
		if !strings.HasPrefix(key, query.Get("prefix")) || key < query.Get("key-marker") ||
			key == query.Get("key-marker") && query.Get("version-id-marker") == "" {
			continue
		}
		for i, v := range s.versions[key] {
			if key == query.Get("key-marker") && !past {
				past = v.id == query.Get("version-id-marker")
				continue
			}
			if len(entries) == limit {
				truncated = true
				break
			}
			kind := "Version"
			if v.marker {
				kind = "DeleteMarker"
			}
			entries = append(entries, fmt.Sprintf("<%s><Key>%s</Key><VersionId>%s</VersionId><IsLatest>%v</IsLatest><LastModified>%s</LastModified><Size>%d</Size></%s>",
				kind, url.QueryEscape(key), v.id, i == 0, time.Now().UTC().Format(time.RFC3339), v.size, kind))
			nextKey, nextID = key, v.id
		}
	}
	_, _ = fmt.Fprintf(w, "<ListVersionsResult><Name>%s</Name><EncodingType>url</EncodingType><IsTruncated>%v</IsTruncated><NextKeyMarker>%s</NextKeyMarker>"+
		"<NextVersionIdMarker>%s</NextVersionIdMarker>%s</ListVersionsResult>", bucketName, truncated, url.QueryEscape(nextKey), nextID, strings.Join(entries, ""))
}

// between is what stands in the first element of that name.
func between(body []byte, name string) string {
	_, rest, _ := strings.Cut(string(body), "<"+name+">")
	inner, _, _ := strings.Cut(rest, "</"+name+">")
	return inner
}
