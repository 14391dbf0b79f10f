package retention

import (
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
)

// policies remembers what topics promise for as long as topics and configs stay as they are.
type policies struct {
	known  bool
	n      uint64  // of the last entry that changed them
	topics []topic // that let something go
}

// viewer shows the state.
type viewer interface{ View(fn func(*state.State)) }

// configured is a topic's own configs; the slice is never modified.
type configured struct {
	id      entry.UUID
	configs []entry.Config
}

// of lists the topics that let something go. The slice is not modified before the next call.
func (x *policies) of(meta viewer) []topic {
	var all []configured
	var cluster []entry.Config
	meta.View(func(st *state.State) {
		if x.known && x.n == st.TopicsN() {
			return
		}
		x.known, x.n, x.topics = true, st.TopicsN(), nil
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
			if policy := (Policy{AgeMS: s.EffectiveRetentionMS(), Bytes: s.EffectiveRetentionBytes()}); !policy.Keeps() {
				x.topics = append(x.topics, topic{c.id, policy})
			}
		}
	}
	return x.topics
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
