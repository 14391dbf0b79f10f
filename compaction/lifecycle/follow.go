package lifecycle

import (
	"time"
)

// Actions that a store's policy must allow, by AWS's names for them.
const (
	ActionGetRules      = "s3:GetLifecycleConfiguration"
	ActionPutRules      = "s3:PutLifecycleConfiguration"
	ActionGetVersioning = "s3:GetBucketVersioning"
	ActionGetLock       = "s3:GetBucketObjectLockConfiguration"
	ActionGetTags       = "s3:GetObjectTagging"
	ActionPutTags       = "s3:PutObjectTagging"
	ActionPutRetention  = "s3:PutObjectRetention"
)

// Follow is the number of days after which the bucket's rules delete every merged object of an authoritative topic, and the rule
// that says so: the shortest, as stores take it. 0 where none does.
func Follow(site Site, rules []Rule, t *Topic) (days int, rule string) {
	for i := range rules {
		r := &rules[i]
		if r.ExpireDays > 0 && r.covers(site.TopicPrefix(t), []Tag{{TagTopic, t.Name}}) && (days == 0 || r.ExpireDays < days) {
			days, rule = r.ExpireDays, r.ID
		}
	}
	return days, rule
}

// Covered says which rule explains that an object is missing at that age, counted from its upload; "" for none. topic is nil for an
// object of level 0.
func Covered(site Site, rules []Rule, topic *Topic, age time.Duration) string {
	prefix, tags := site.level0(), []Tag(nil)
	if topic != nil {
		prefix, tags = site.TopicPrefix(topic), []Tag{topic.Label()}
	}
	for i := range rules {
		r := &rules[i]
		if r.ExpireDays > 0 && r.covers(prefix, tags) && age >= time.Duration(r.ExpireDays)*24*time.Hour {
			return r.ID
		}
	}
	return ""
}
