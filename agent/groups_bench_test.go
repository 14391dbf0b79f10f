package agent_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/log/memlog"
	"github.com/firnlog/firn/metastore/state"
)

// wire is a connection that asks one thing after the other.
type wire struct {
	nc          net.Conn
	correlation int32
	buf         []byte
}

func (w *wire) ask(req kmsg.Request, res kmsg.Response) error {
	w.correlation++
	w.buf = kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(w.buf[:0], req, w.correlation)
	if _, err := w.nc.Write(w.buf); err != nil {
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(w.nc, head[:]); err != nil {
		return err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(w.nc, b); err != nil {
		return err
	}
	b = b[4:]
	if req.IsFlexible() {
		b = b[1:]
	}
	return res.ReadFrom(b)
}

// joiner is a member of a group in a benchmark.
type joiner struct {
	wire
	group      string
	id         string
	generation int32
	leads      bool
	metadata   []byte
}

// become joins and syncs until the member is one of a stable generation.
func (j *joiner) become() error {
	for {
		req, res := kmsg.NewPtrJoinGroupRequest(), kmsg.NewPtrJoinGroupResponse()
		req.Version, res.Version = 9, 9
		req.Group, req.MemberID, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = j.group, j.id, "consumer", 60_000, 60_000
		req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: "range", Metadata: j.metadata})
		if err := j.ask(req, res); err != nil {
			return err
		}
		j.id, j.generation, j.leads = res.MemberID, res.Generation, len(res.Members) > 0
		switch res.ErrorCode {
		case 0:
		case 79: // with the id
			continue
		default:
			return fmt.Errorf("join: code %d", res.ErrorCode)
		}
		sync, synced := kmsg.NewPtrSyncGroupRequest(), kmsg.NewPtrSyncGroupResponse()
		sync.Version, synced.Version = 5, 5
		sync.Group, sync.MemberID, sync.Generation, sync.ProtocolType, sync.Protocol = j.group, j.id, j.generation, res.ProtocolType, res.Protocol
		for _, m := range res.Members {
			sync.GroupAssignment = append(sync.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: m.MemberID, MemberAssignment: j.metadata})
		}
		if err := j.ask(sync, synced); err != nil {
			return err
		}
		switch synced.ErrorCode {
		case 0:
			return nil
		case 27: // once more
		default:
			return fmt.Errorf("sync: code %d", synced.ErrorCode)
		}
	}
}

func (j *joiner) heartbeat() (int16, error) {
	req, res := kmsg.NewPtrHeartbeatRequest(), kmsg.NewPtrHeartbeatResponse()
	req.Version, res.Version = 4, 4
	req.Group, req.MemberID, req.Generation = j.group, j.id, j.generation
	err := j.ask(req, res)
	return res.ErrorCode, err
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Groups of twenty on three agents, all at once: members join, then the leader starts a rebalance of which the others learn by
// heartbeats half a second apart. The metastore takes up to five milliseconds each way.
func BenchmarkRebalance(b *testing.B) {
	const groups, members = 200, 20
	for range b.N {
		b.StopTimer()
		c := newTeam(b)
		agents := []*mate{c.join("a"), c.join("b"), c.join("c")}
		byID := make(map[int32]*mate)
		for _, m := range agents {
			byID[m.Metastore().NodeID()] = m
			m.log.SetFaults(memlog.Faults{LatencyMax: 5 * time.Millisecond})
		}
		await(b, "slots of all", func() bool {
			owned := make(map[[16]byte]int)
			agents[0].Metastore().View(func(st *state.State) {
				for i := range state.Slots {
					owned[st.Slot(i).Owner]++
				}
			})
			return len(owned) == 3 && owned[[16]byte{}] == 0
		})
		time.Sleep(time.Second) // nothing is asserted: slots come to rest
		var all []*joiner
		for g := range groups {
			id := fmt.Sprint("group-", g)
			var owner *mate
			agents[0].Metastore().View(func(st *state.State) {
				if a, ok := st.AgentByIncarnation(st.Slot(state.SlotOf(id)).Owner); ok {
					owner = byID[a.NodeID]
				}
			})
			for range members {
				nc, err := net.Dial("tcp", owner.cfg.Advertise)
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, &joiner{wire: wire{nc: nc}, group: id, metadata: make([]byte, 200)})
			}
		}
		var before runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		cpu, began := cpuTime(), time.Now()
		b.StartTimer()
		run := func(fn func(i int, j *joiner) error) (took []time.Duration) {
			took = make([]time.Duration, len(all))
			var wg sync.WaitGroup
			start := time.Now()
			for i, j := range all {
				wg.Go(func() {
					if err := fn(i, j); err != nil {
						b.Error(err)
					}
					took[i] = time.Since(start)
				})
			}
			wg.Wait()
			slices.Sort(took)
			return took
		}
		formed := run(func(_ int, j *joiner) error {
			if err := j.become(); err != nil {
				return err
			}
			for {
				switch code, err := j.heartbeat(); {
				case err != nil:
					return err
				case code == 0:
					return nil
				}
				if err := j.become(); err != nil {
					return err
				}
			}
		})
		again := run(func(i int, j *joiner) error {
			if j.leads {
				return j.become()
			}
			time.Sleep(time.Duration(i%members) * 500 * time.Millisecond / members)
			for {
				code, err := j.heartbeat()
				if err != nil {
					return err
				}
				if code == 27 {
					return j.become()
				}
				time.Sleep(500 * time.Millisecond)
			}
		})
		b.StopTimer()
		used, lasted := cpuTime()-cpu, time.Since(began)
		var after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(formed[len(formed)/2].Seconds(), "form-p50-s")
		b.ReportMetric(formed[len(formed)*99/100].Seconds(), "form-p99-s")
		b.ReportMetric(again[len(again)/2].Seconds(), "rebalance-p50-s")
		b.ReportMetric(again[len(again)*99/100].Seconds(), "rebalance-p99-s")
		b.ReportMetric(used.Seconds(), "cpu-s")
		b.ReportMetric(used.Seconds()/lasted.Seconds(), "cores")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(groups*members), "heap-B/member")
		for _, j := range all {
			_ = j.nc.Close()
		}
	}
}
