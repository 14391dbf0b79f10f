// Package memlog is the metastore's log in memory, for tests: one Store is the etcd cluster, one Log per agent is that agent's
// way to it. With no faults it behaves as a perfect etcd and passes the same suite (metastore/log/logtest). With faults it is
// nastier than etcd ever was, in every way that etcd has been seen or is allowed to be, because an agent has to be right all
// the same. DESIGN.md beside package log says which promise each fault stays within and which it breaks.
//
// What no fault touches: entries are ordered once and for all, guards are judged at the moment of application, Head is
// truthful when it answers, cells and trims are atomic.
//
// Every wait goes through package time and every goroutine is joined by Close, so a Store runs inside a testing/synctest
// bubble. Faults are drawn from Config.Rand under one lock: a run repeats as far as the order of its calls does.
package memlog
