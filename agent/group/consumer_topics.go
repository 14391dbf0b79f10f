package group

import (
	"github.com/firnlog/firn/agent/group/consumer"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/state"
)

// topicsOf is the cluster's topics for machines of the consumer protocol: what the state has at each call.
type topicsOf struct{ c *Coordinator }

func (t topicsOf) Version() (version uint64) {
	t.c.meta.View(func(st *state.State) { version = st.TopicsN() + 1 })
	return version
}

func (t topicsOf) ByName(name string) (topic consumer.Topic, ok bool) {
	t.c.meta.View(func(st *state.State) { topic, ok = asTopic(st.TopicByName(name)) })
	return topic, ok
}

func (t topicsOf) ByID(id entry.UUID) (topic consumer.Topic, ok bool) {
	t.c.meta.View(func(st *state.State) { topic, ok = asTopic(st.TopicByID(id)) })
	return topic, ok
}

func asTopic(t *state.Topic) (consumer.Topic, bool) {
	if t == nil {
		return consumer.Topic{}, false
	}
	return consumer.Topic{ID: t.ID, Name: t.Name, Partitions: int32(t.Partitions())}, true
}

// Names are sorted, and kept for the next group as long as no topic changes.
func (t topicsOf) Names() []string {
	t.c.names.mu.Lock()
	defer t.c.names.mu.Unlock()
	t.c.meta.View(func(st *state.State) {
		if version := st.TopicsN() + 1; t.c.names.version != version {
			list := make([]string, 0, st.TopicCount())
			for topic := range st.Topics() {
				list = append(list, topic.Name)
			}
			t.c.names.list, t.c.names.version = list, version
		}
	})
	return t.c.names.list
}
