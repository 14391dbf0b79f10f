//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack"
)

// member is a consumer of a group in a process of its own.
type member struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{}

	mu     sync.Mutex // guards the rest
	holds  map[int]bool
	read   map[string]int // "partition/offset": how often
	faults []string
	stderr bytes.Buffer
}

// groupEvent is a line of newgroups.py, or of Kafka's VerifiableConsumer.
type groupEvent struct {
	Event, Name       string
	Partition, Offset int
	Partitions        json.RawMessage
	Text              string
	Fatal             bool
}

func (e *groupEvent) partitions() (list []int) {
	if json.Unmarshal(e.Partitions, &list) == nil {
		return list
	}
	var named []struct{ Partition int }
	_ = json.Unmarshal(e.Partitions, &named)
	list = nil
	for _, p := range named {
		list = append(list, p.Partition)
	}
	return list
}

func startMember(t *testing.T, name, bin string, args ...string) *member {
	t.Helper()
	m := &member{t: t, name: name, cmd: exec.Command(bin, args...), ended: make(chan struct{}), holds: map[int]bool{}, read: map[string]int{}}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if m.stdin, err = m.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	m.cmd.Stderr = &m.stderr
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 16<<20)
		for lines.Scan() {
			var e groupEvent
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				continue
			}
			m.take(&e)
		}
		_ = m.cmd.Wait()
	}()
	t.Cleanup(func() {
		m.kill()
		if t.Failed() {
			m.mu.Lock()
			defer m.mu.Unlock()
			t.Logf("== %s\n%s", m.name, m.stderr.String()[max(0, m.stderr.Len()-4<<10):])
		}
	})
	return m
}

func (m *member) take(e *groupEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Event + e.Name {
	case "assigned", "partitions_assigned":
		for _, p := range e.partitions() {
			m.holds[p] = true
		}
	case "revoked", "lost", "partitions_revoked", "partitions_lost":
		for _, p := range e.partitions() {
			delete(m.holds, p)
		}
	case "read", "record_data":
		m.read[fmt.Sprintf("%d/%d", e.Partition, e.Offset)]++
	case "error", "commit":
		m.faults = append(m.faults, e.Text)
	}
}

func (m *member) now() (holds []int, reads map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.holds {
		holds = append(holds, p)
	}
	reads = map[string]int{}
	for k, v := range m.read {
		reads[k] = v
	}
	return holds, reads
}

func (m *member) kill() {
	_ = m.cmd.Process.Kill()
	<-m.ended
}

// leave ends the member in good order.
func (m *member) leave(how func() error) {
	m.t.Helper()
	if err := how(); err != nil {
		m.t.Fatal(err)
	}
	select {
	case <-m.ended:
	case <-time.After(30 * time.Second):
		m.t.Errorf("%s does not leave", m.name)
		m.kill()
	}
}

// shares waits until these members share the partitions of a topic, evenly within one.
func shares(t *testing.T, partitions int, members ...*member) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var all []int
		least, most := partitions, 0
		last = ""
		for _, m := range members {
			holds, _ := m.now()
			slices.Sort(holds)
			last += fmt.Sprintf("%s: %v; ", m.name, holds)
			all = append(all, holds...)
			least, most = min(least, len(holds)), max(most, len(holds))
		}
		slices.Sort(all)
		if len(all) == partitions && len(slices.Compact(all)) == partitions && most-least <= 1 {
			return
		}
	}
	t.Fatalf("the members do not come to share %d partitions: %s", partitions, last)
}

// readAll waits until the members have read so many different records.
func readAll(t *testing.T, records int, members ...*member) (repeats int) {
	t.Helper()
	n := 0
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		all := map[string]int{}
		for _, m := range members {
			_, reads := m.now()
			for k, v := range reads {
				all[k] += v
			}
		}
		n, repeats = len(all), 0
		for _, v := range all {
			repeats += v - 1
		}
		if n == records {
			return repeats
		}
	}
	t.Fatalf("%d of %d records were read", n, records)
	return 0
}

func produceNumbers(t *testing.T, stack *localstack.Stack, topic string, from, to int) {
	t.Helper()
	cmd := exec.Command("kcat", "-b", stack.Brokers(), "-t", topic, "-P", "-X", "topic.partitioner=random", "-X", "sticky.partitioning.linger.ms=0")
	var in strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&in, "record %d\n", i)
	}
	cmd.Stdin = strings.NewReader(in.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("kcat: %v\n%s", err, out)
	}
}

func python(t *testing.T, stack *localstack.Stack, name, topic, group, protocol string) *member {
	return startMember(t, name, pythonBin, "newgroups.py", stack.Brokers(), topic, group, protocol)
}

func java(t *testing.T, stack *localstack.Stack, name, topic, group, protocol string) *member {
	args := []string{
		"-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(toolLibs(t), "*"), "org.apache.kafka.tools.VerifiableConsumer",
		"--bootstrap-server", stack.Brokers(), "--topic", topic, "--group-id", group, "--group-protocol", protocol, "--verbose",
		"--reset-policy", "earliest",
	}
	if protocol == "classic" {
		args = append(args, "--assignment-strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor", "--session-timeout", "10000")
	}
	return startMember(t, name, "java", args...)
}

// Members of the Java client and of librdkafka share the partitions of a topic in one group of the consumer protocol, while members come,
// leave and are killed, and while the agent that coordinates the group is killed.
func TestMembersOfTheConsumerProtocol(t *testing.T) {
	const partitions = 12
	stack := start(t, 3, "--consumer-heartbeat-interval", "500ms", "--consumer-session-timeout", "6s")
	run(t, firnBin, "topic", "create", "shared", "--partitions", fmt.Sprint(partitions), "--brokers", stack.Brokers())
	produceNumbers(t, stack, "shared", 0, 1000)
	first := java(t, stack, "java", "shared", "g", "consumer")
	shares(t, partitions, first)
	second := python(t, stack, "librdkafka", "shared", "g", "consumer")
	shares(t, partitions, first, second)
	third := java(t, stack, "java, killed", "shared", "g", "consumer")
	shares(t, partitions, first, second, third)
	produceNumbers(t, stack, "shared", 1000, 2000)
	repeats := readAll(t, 2000, first, second, third)
	t.Logf("2000 records, %d read twice while members came", repeats)

	third.kill()
	shares(t, partitions, first, second)
	owner := coordinator(t, stack, "g")
	if err := owner.Kill(); err != nil {
		t.Fatal(err)
	}
	produceNumbers(t, stack, "shared", 2000, 3000)
	readAll(t, 3000, first, second, third)
	shares(t, partitions, first, second)
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	if err := awaitReady(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	second.leave(second.stdin.Close)
	shares(t, partitions, first)
	out := kafkaTool(t, "consumer.group.ConsumerGroupCommand", "--bootstrap-server", stack.Brokers(), "--describe", "--state", "--group", "g")
	for _, want := range []string{"Stable", "uniform"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for _, m := range []*member{first, second} {
		if len(m.faults) > 0 {
			t.Errorf("%s saw %v", m.name, m.faults)
		}
	}
}

// A group of classic members is upgraded when one of the consumer protocol comes, and downgraded when it goes.
func TestMembersOfBothProtocols(t *testing.T) {
	const partitions = 6
	stack := start(t, 2, "--consumer-heartbeat-interval", "500ms", "--consumer-session-timeout", "6s", "--group-initial-delay", "100ms")
	run(t, firnBin, "topic", "create", "moved", "--partitions", fmt.Sprint(partitions), "--brokers", stack.Brokers())
	produceNumbers(t, stack, "moved", 0, 500)
	oldJava := java(t, stack, "java, classic", "moved", "g", "classic")
	oldC := python(t, stack, "librdkafka, classic", "moved", "g", "classic")
	shares(t, partitions, oldJava, oldC)
	upgraded := python(t, stack, "librdkafka", "moved", "g", "consumer")
	shares(t, partitions, oldJava, oldC, upgraded)
	produceNumbers(t, stack, "moved", 500, 1000)
	readAll(t, 1000, oldJava, oldC, upgraded)
	if out := kafkaTool(t, "GroupsCommand", "--bootstrap-server", stack.Brokers(), "--list"); !strings.Contains(out, "Consumer") {
		t.Errorf("the group is not listed as one of the consumer protocol:\n%s", out)
	}
	upgraded.leave(upgraded.stdin.Close)
	shares(t, partitions, oldJava, oldC)
	produceNumbers(t, stack, "moved", 1000, 1500)
	readAll(t, 1500, oldJava, oldC, upgraded)
	if out := kafkaTool(t, "GroupsCommand", "--bootstrap-server", stack.Brokers(), "--list"); !strings.Contains(out, "Classic") {
		t.Errorf("the group is not listed as a classic one:\n%s", out)
	}
}

// coordinator is the agent that coordinates a group.
func coordinator(t *testing.T, stack *localstack.Stack, group string) *localstack.Agent {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(stack.Brokers(), ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKey, req.CoordinatorKeys = group, []string{group}
	res, err := req.RequestWith(t.Context(), cl)
	if err != nil || len(res.Coordinators) != 1 {
		t.Fatalf("find the coordinator: %+v, %v", res, err)
	}
	addr := net.JoinHostPort(res.Coordinators[0].Host, fmt.Sprint(res.Coordinators[0].Port))
	for _, a := range stack.Agents {
		if a.Kafka == addr {
			return a
		}
	}
	t.Fatalf("no agent has the address of the coordinator, %s", addr)
	return nil
}
