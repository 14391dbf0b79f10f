//go:build interop

package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// event is a line of a member's output.
type event struct {
	Event      string `json:"event"`
	Partitions []int  `json:"partitions"`
	Partition  int    `json:"partition"`
	Offset     int64  `json:"offset"`
	Number     uint32 `json:"number"`
	Text       string `json:"text"`
}

// place says where a member works.
type place struct{ brokers, topic, group string }

// client is a stock client in one of its ways to be a member of a group.
type client struct {
	name string
	// member runs one member, tells what it sees, and returns when it has left the group after ctx ended.
	member func(ctx context.Context, at place, say func(event)) error
	direct bool // run where clients are told of the agents, too
	simple bool // run with an agent taken away in the long run only
	// forgets: where it is told to leave it may have taken, and commits, a record that it does not show. And what it commits by itself
	// it sends again without regard to what it has committed since, so that it may go back.
	forgets bool
}

// clients are all of them. Each is run behind the load balancer, those with direct also where clients are told of the agents.
var clients = []client{
	{name: "kafka-python/range", member: script("kafkapython.py", "range"), simple: true},
	{name: "kafka-python/cooperative-sticky", member: script("kafkapython.py", "cooperative-sticky")},
	{name: "librdkafka/range", member: script("librdkafka.py", "classic", "range"), simple: true},
	{name: "librdkafka/cooperative-sticky", member: script("librdkafka.py", "classic", "cooperative-sticky"), direct: true},
	{name: "librdkafka/consumer", member: script("librdkafka.py", "consumer", "uniform")},
	{name: "kcat/range", member: kcat, forgets: true, simple: true},
	{name: "java/range", member: java("classic", "range"), simple: true},
	{name: "java/cooperative-sticky", member: java("classic", "cooperative-sticky")},
	{name: "java/consumer", member: java("consumer", "uniform"), direct: true},
	{name: "franz-go/cooperative-sticky", member: franz(kgo.CooperativeStickyBalancer())},
	{name: "franz-go/range", member: franz(kgo.RangeBalancer()), simple: true},
	{name: "sarama/range", member: program(func(at place) *exec.Cmd {
		return exec.Command(programs["INTEROP_SARAMA"], at.brokers, at.topic, at.group, "range")
	})},
	{name: "kafkajs/round-robin", member: program(func(at place) *exec.Cmd {
		return exec.Command("node", programs["INTEROP_KAFKAJS"], at.brokers, at.topic, at.group)
	})},
}

func script(file string, args ...string) func(context.Context, place, func(event)) error {
	return program(func(at place) *exec.Cmd {
		return exec.Command(programs["INTEROP_PYTHON"], append([]string{file, at.brokers, at.topic, at.group}, args...)...)
	})
}

func java(args ...string) func(context.Context, place, func(event)) error {
	return program(func(at place) *exec.Cmd {
		path := programs["INTEROP_JAVA"] + string(filepath.ListSeparator) + filepath.Join(programs["KAFKA_TOOLS"], "*")
		return exec.Command("java", append([]string{"-Xmx96m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", path,
			"Member", at.brokers, at.topic, at.group}, args...)...)
	})
}

// program runs a member that is a process.
func program(command func(place) *exec.Cmd) func(context.Context, place, func(event)) error {
	return func(ctx context.Context, at place, say func(event)) error {
		cmd := command(at)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		return runMember(ctx, cmd, func() error { return stdin.Close() }, func(out io.Reader) error {
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				var e event
				if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
					return fmt.Errorf("a line %q: %w", lines.Bytes(), err)
				}
				say(e)
			}
			return lines.Err()
		}, func(line string) { say(event{Event: "note", Text: line}) })
	}
}

// memberEnds bounds how long a member takes to leave. Clients wait for up to half a minute for an answer at their end.
const memberEnds = time.Minute

// runMember runs cmd with its output read as it comes, until it ends or ctx does; then it is asked to end.
func runMember(ctx context.Context, cmd *exec.Cmd, end func() error, stdout func(io.Reader) error, stderr func(string)) error {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	var read error
	readers.Go(func() {
		if read = stdout(out); read != nil {
			_ = cmd.Process.Kill()
			_, _ = io.Copy(io.Discard, out)
		}
	})
	readers.Go(func() {
		lines := bufio.NewScanner(errs)
		for lines.Scan() {
			stderr(lines.Text())
		}
	})
	var late error
	var ender sync.WaitGroup
	ender.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		_ = end()
		select {
		case <-done:
		case <-time.After(memberEnds):
			late = fmt.Errorf("it did not end within %v", memberEnds)
			_ = cmd.Process.Kill()
		}
	})
	readers.Wait()
	err = cmd.Wait()
	close(done)
	ender.Wait()
	switch {
	case read != nil:
		return read
	case late != nil:
		return late
	case err == nil && ctx.Err() == nil:
		return fmt.Errorf("%s ended by itself", cmd.Path)
	}
	return err
}

// kcatRebalance is what kcat says where its partitions change: with range it gives up all of them before it gets others.
var kcatRebalance = regexp.MustCompile(`^% Group \S+ rebalanced \(memberid \S+\): (assigned|revoked):(.*)$`)

// kcat is kcat as it comes, which commits every five seconds, by itself. What it is shown and what it is assigned come on one pipe, so that they come in
// order; librdkafka's log, which could break into a line, is off.
func kcat(ctx context.Context, at place, say func(event)) error {
	cmd := exec.Command("sh", "-c", `exec kcat "$@" 2>&1`, "kcat", "-b", at.brokers, "-u", "-E", "-X", "auto.offset.reset=earliest",
		"-X", "log_level=0", "-X", "partition.assignment.strategy=range", "-f", `{"event":"record","partition":%p,"offset":%o,"number":%k}`+"\n", "-G", at.group, at.topic)
	return runMember(ctx, cmd, func() error { return cmd.Process.Signal(os.Interrupt) }, func(out io.Reader) error {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var e event
			if m := kcatRebalance.FindStringSubmatch(lines.Text()); m != nil {
				e.Event = m[1]
				for _, p := range strings.Split(m[2], ",") {
					if _, n, ok := strings.Cut(strings.TrimSuffix(strings.TrimSpace(p), "]"), "["); ok {
						if n, err := strconv.Atoi(n); err == nil {
							e.Partitions = append(e.Partitions, n)
						}
					}
				}
			} else if strings.HasPrefix(lines.Text(), "%") {
				if strings.HasPrefix(lines.Text(), "% Reached end of topic") {
					continue
				}
				e = event{Event: "note", Text: lines.Text()}
			} else if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				return fmt.Errorf("a line %q: %w", lines.Bytes(), err)
			}
			say(e)
		}
		return lines.Err()
	}, func(string) {})
}

// franz is a member in this process, with franz-go.
func franz(balancer kgo.GroupBalancer) func(context.Context, place, func(event)) error {
	return func(ctx context.Context, at place, say func(event)) error {
		var mu sync.Mutex // guards read
		read := make(map[int32]int64)
		changed := func(what string) func(context.Context, *kgo.Client, map[string][]int32) {
			return func(_ context.Context, _ *kgo.Client, of map[string][]int32) {
				e := event{Event: what}
				mu.Lock()
				for _, p := range of[at.topic] {
					e.Partitions = append(e.Partitions, int(p))
					delete(read, p) // who gets it reads again what was not committed
				}
				mu.Unlock()
				say(e)
			}
		}
		commit := func(ctx context.Context, cl *kgo.Client) {
			mu.Lock()
			offsets := make(map[int32]kgo.EpochOffset)
			for p, o := range read {
				offsets[p] = kgo.EpochOffset{Epoch: -1, Offset: o}
			}
			clear(read)
			mu.Unlock()
			if len(offsets) == 0 {
				return
			}
			left := maps.Clone(offsets)
			cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{at.topic: offsets}, committed(at.topic, func(e event) {
				if e.Event == "committed" {
					delete(left, int32(e.Partition))
				}
				say(e)
			}))
			// What was not committed goes with the next commit: nothing else would ever commit the last records. No rebalance comes
			// between a poll and a commit, and none reads meanwhile.
			mu.Lock()
			for p, o := range left {
				read[p] = o.Offset
			}
			mu.Unlock()
		}
		cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(at.brokers, ",")...), kgo.ConsumerGroup(at.group), kgo.ConsumeTopics(at.topic),
			kgo.Balancers(balancer), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.AlwaysRetryEOF(), kgo.ClientID("franz-go"),
			kgo.OnPartitionsAssigned(changed("assigned")), kgo.OnPartitionsLost(changed("revoked")), kgo.BlockRebalanceOnPoll(),
			kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, of map[string][]int32) {
				commit(ctx, cl)
				changed("revoked")(ctx, cl, of)
			}))
		if err != nil {
			return err
		}
		defer cl.Close()
		last := time.Now()
		for ctx.Err() == nil {
			polling, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			fetches := cl.PollFetches(polling)
			cancel()
			var bad error
			fetches.EachRecord(func(r *kgo.Record) {
				number, err := strconv.ParseUint(string(r.Key), 10, 32)
				if err != nil {
					bad = err
				}
				say(event{Event: "record", Partition: int(r.Partition), Offset: r.Offset, Number: uint32(number)})
				mu.Lock()
				read[r.Partition] = r.Offset + 1
				mu.Unlock()
			})
			if bad != nil {
				return bad
			}
			if time.Since(last) > 250*time.Millisecond {
				committing, cancel := context.WithTimeout(context.WithoutCancel(ctx), memberEnds)
				commit(committing, cl)
				cancel()
				last = time.Now()
			}
			cl.AllowRebalance()
		}
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), memberEnds)
		defer cancel()
		commit(leaving, cl)
		return cl.LeaveGroupContext(leaving)
	}
}
