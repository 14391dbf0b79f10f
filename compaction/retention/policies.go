package retention

import (
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// policies remembers what topics promise for as long as topics and configs stay as they are.
type policies struct {
	ageMS func(entry.UUID, *topicconfig.Settings) int64

	known    bool
	n        uint64 // of the last entry that changed them
	settings []settled
}

// settled are a topic's settings in force.
type settled struct {
	id       entry.UUID
	settings topicconfig.Settings
}

// configured is a topic's own configs; the slice is never modified.
type configured struct {
	id      entry.UUID
	configs []entry.Config
}

// of lists the topics that let something go.
func (x *policies) of(meta Meta) []topic {
	var all []configured
	var cluster []entry.Config
	meta.View(func(st *state.State) {
		if x.known && x.n == st.TopicsN() {
			return
		}
		x.known, x.n, x.settings = true, st.TopicsN(), x.settings[:0]
		cluster = st.BrokerConfigs()
		all = make([]configured, 0, st.TopicCount())
		for t := range st.Topics() {
			all = append(all, configured{t.ID, t.Configs})
		}
	})
	if len(all) > 0 {
		plain := topicconfig.Parse(topicconfig.Unset, lookUp(cluster)) // of topics without configs of their own
		for _, c := range all {
			s := plain
			if len(c.configs) > 0 {
				s = topicconfig.Parse(lookUp(c.configs), lookUp(cluster))
			}
			if s.Delete {
				x.settings = append(x.settings, settled{c.id, s})
			}
		}
	}
	topics := make([]topic, 0, len(x.settings))
	for i := range x.settings {
		s := &x.settings[i]
		policy := Policy{AgeMS: x.ageMS(s.id, &s.settings), Bytes: s.settings.EffectiveRetentionBytes()}
		if !policy.Keeps() {
			topics = append(topics, topic{s.id, policy})
		}
	}
	return topics
}

func lookUp(list []entry.Config) topicconfig.Get {
	return func(name string) (string, bool) {
		for i := range list {
			if list[i].Name == name {
				return list[i].Value, true
			}
		}
		return "", false
	}
}
