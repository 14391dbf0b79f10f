package state

import (
	"cmp"
	"slices"
	"strings"

	"github.com/firnlog/firn/metastore/entry"
)

// The one setting that the state machine itself obeys, of a topic and cluster-wide. Everything else is kept and
// reported; the proposer checks values.
const (
	timestampType        = "message.timestamp.type"
	clusterTimestampType = "log.message.timestamp.type"
)

func lookUp(configs []entry.Config, name string) (string, bool) {
	at, ok := slices.BinarySearchFunc(configs, name, func(c entry.Config, name string) int { return cmp.Compare(c.Name, name) })
	if !ok {
		return "", false
	}
	return configs[at].Value, true
}

// newConfigs sorts a copy of configs and refuses names that are empty or repeated.
func newConfigs(configs []entry.Config) ([]entry.Config, Code) {
	if len(configs) > MaxConfigs {
		return nil, LimitExceeded
	}
	configs = slices.Clone(configs)
	slices.SortFunc(configs, func(a, b entry.Config) int { return cmp.Compare(a.Name, b.Name) })
	for i := range configs {
		if configs[i].Name == "" || i > 0 && configs[i].Name == configs[i-1].Name {
			return nil, InvalidConfig
		}
	}
	return configs, OK
}

// parseTimestampType reads a timestamp type; unset reports that there is none.
func parseTimestampType(configs []entry.Config, name string) (logAppendTime, unset bool, code Code) {
	value, ok := lookUp(configs, name)
	switch {
	case !ok:
		return false, true, OK
	case value == "LogAppendTime":
		return true, false, OK
	case value == "CreateTime":
		return false, false, OK
	default:
		return false, false, InvalidConfig
	}
}

// configureTopic gives t these configs, or leaves it as it is and says why not.
func (s *State) configureTopic(t *Topic, configs []entry.Config) Code {
	logAppendTime, unset, code := parseTimestampType(configs, timestampType)
	if code != OK {
		return code
	}
	if unset {
		logAppendTime, _, _ = parseTimestampType(s.configs, clusterTimestampType) // was checked when it was set
	}
	t.Configs, t.logAppendTime = configs, logAppendTime
	return OK
}

func (s *State) alterConfigs(op *entry.AlterConfigs, r *Results) Code {
	switch {
	case op.ResourceType == entry.ResourceTopic:
		t := s.TopicByName(op.ResourceName)
		if t == nil {
			return UnknownTopic
		}
		configs, code := changeConfigs(t.Configs, op)
		if code == OK {
			code = s.configureTopic(t, configs)
		}
		r.TopicsChanged = r.TopicsChanged || code == OK
		return code
	case op.ResourceType == entry.ResourceBroker && op.ResourceName == "":
		configs, code := changeConfigs(s.configs, op)
		if code != OK {
			return code
		}
		if _, _, code := parseTimestampType(configs, clusterTimestampType); code != OK {
			return code
		}
		s.configs = configs
		for _, t := range s.topics.sorted {
			s.configureTopic(t, t.Configs) // its own configs were accepted before
		}
		r.TopicsChanged = true
		return OK
	default:
		return InvalidRequest
	}
}

// changeConfigs returns what the changes of op make of old, which it leaves alone.
func changeConfigs(old []entry.Config, op *entry.AlterConfigs) ([]entry.Config, Code) {
	changes := slices.Clone(op.Changes)
	slices.SortFunc(changes, func(a, b entry.ConfigChange) int { return cmp.Compare(a.Name, b.Name) })
	for i := range changes {
		if changes[i].Name == "" || i > 0 && changes[i].Name == changes[i-1].Name {
			return nil, InvalidConfig
		}
		if op.ReplaceAll && changes[i].Kind != entry.ConfigSet {
			return nil, InvalidConfig
		}
	}
	var configs []entry.Config
	if !op.ReplaceAll {
		configs = slices.Clone(old)
	}
	for _, change := range changes {
		at, found := slices.BinarySearchFunc(configs, change.Name,
			func(c entry.Config, name string) int { return cmp.Compare(c.Name, name) })
		value := change.Value
		switch change.Kind {
		case entry.ConfigSet:
		case entry.ConfigDelete:
			if found {
				configs = slices.Delete(configs, at, at+1)
			}
			continue
		case entry.ConfigAppend, entry.ConfigSubtract:
			have := ""
			if found {
				have = configs[at].Value
			}
			var ok bool
			if value, ok = changeList(have, value, change.Kind == entry.ConfigAppend); !ok {
				return nil, LimitExceeded
			}
		default:
			return nil, InvalidConfig
		}
		if found {
			configs[at].Value = value
		} else {
			configs = slices.Insert(configs, at, entry.Config{Name: change.Name, Value: value})
		}
	}
	if len(configs) > MaxConfigs {
		return nil, LimitExceeded
	}
	return configs, OK
}

// changeList adds the items of a comma-separated list that another one lacks, or removes them. It reports false where
// the lists are too long.
func changeList(have, change string, add bool) (string, bool) {
	list, items := splitList(have), splitList(change)
	if len(list)+len(items) > maxListItems {
		return "", false
	}
	for _, item := range items {
		at := slices.Index(list, item)
		switch {
		case add && at < 0:
			list = append(list, item)
		case !add && at >= 0:
			list = slices.Delete(list, at, at+1)
		}
	}
	value := strings.Join(list, ",")
	return value, len(value) <= entry.MaxString
}

func splitList(s string) []string {
	var list []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}
