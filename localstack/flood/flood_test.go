//go:build interop

package flood

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/localstack"
	"github.com/firnlog/firn/objstore/batch"
)

const (
	crowd    = 10_000          // connections
	scenario = 6 * time.Second // how long each flood lasts once it stands
	patience = time.Minute
)

var firnBin = filepath.Join("..", "..", "bin", "firn")

func TestMain(m *testing.M) {
	if p := os.Getenv("FIRN_BIN"); p != "" {
		firnBin = p
	}
	// Sockets of our own; the agent's process sees to its own. What is allowed is checked where connections are made.
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err == nil {
		lim.Cur = lim.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim)
	}
	os.Exit(m.Run())
}

// process is `firn dev` and what is known of its memory.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	kafka string
}

func start(t *testing.T) *process {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t}
	if p.kafka, err = localstack.FreeAddr(); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(firnBin, "dev", "--data-dir", filepath.Join(dir, "data"), "--kafka", p.kafka, "--http", "127.0.0.1:0")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
		_ = log.Close()
		if t.Failed() {
			body, _ := os.ReadFile(log.Name())
			t.Logf("%s", body[max(0, len(body)-8<<10):])
		}
	})
	for deadline := time.Now().Add(patience); ; {
		if nc, err := net.Dial("tcp", p.kafka); err == nil {
			_ = nc.Close()
			return p
		}
		if time.Now().After(deadline) {
			t.Fatal("firn does not listen")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// resident is the memory that the process has now.
func (p *process) resident() int64 {
	p.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "VmRSS:"); ok {
			var kib int64
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				p.t.Fatal(err)
			}
			return kib << 10
		}
	}
	p.t.Fatal("the process is gone")
	return 0
}

// peak samples the resident memory while fn runs.
func (p *process) peak(fn func()) (most int64) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for t := time.NewTicker(50 * time.Millisecond); ; {
			most = max(most, p.resident())
			select {
			case <-t.C:
			case <-stop:
				return
			}
		}
	})
	fn()
	close(stop)
	wg.Wait()
	return most
}

// bystander produces and consumes ten MB/s, and notices whatever goes wrong.
type bystander struct {
	t        *testing.T
	acked    atomic.Int64
	read     atomic.Int64
	slowest  atomic.Int64 // ns from produce to acknowledgement, since it was last asked
	problems atomic.Int64
	stop     func()
}

const bystanderRate = 10_000 // records of 1 KB a second

func (p *process) bystander() *bystander {
	p.t.Helper()
	b := &bystander{t: p.t}
	problem := func(format string, args ...any) {
		if b.problems.Add(1) <= 5 {
			p.t.Errorf("bystander: "+format, args...)
		}
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(p.kafka), kgo.DefaultProduceTopic("bystander"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := kadm.NewClient(producer).CreateTopic(context.Background(), 12, 1, nil, "bystander"); err != nil {
		p.t.Fatal(err)
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(p.kafka), kgo.ConsumeTopics("bystander"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())         // of producing
	reading, readEnough := context.WithCancel(context.Background()) // until all was read
	next := make(map[int32]int64)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			fetches := consumer.PollFetches(reading)
			if reading.Err() != nil {
				return
			}
			fetches.EachError(func(_ string, _ int32, err error) { problem("fetch: %v", err) })
			fetches.EachRecord(func(r *kgo.Record) {
				if r.Offset != next[r.Partition] {
					problem("offset %d of partition %d after %d", r.Offset, r.Partition, next[r.Partition]-1)
				}
				next[r.Partition] = r.Offset + 1
				b.read.Add(1)
			})
		}
	})
	wg.Go(func() {
		value := make([]byte, 1000)
		for i := range value {
			value[i] = byte(rand.Uint32())
		}
		for t := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
			for range bystanderRate / 100 {
				at := time.Now()
				producer.Produce(context.Background(), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
					if err != nil {
						problem("produce: %v", err)
						return
					}
					b.acked.Add(1)
					took := int64(time.Since(at))
					for {
						was := b.slowest.Load()
						if took <= was || b.slowest.CompareAndSwap(was, took) {
							return
						}
					}
				})
			}
		}
	})
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			if err := producer.Flush(context.Background()); err != nil {
				problem("flush: %v", err)
			}
			for deadline := time.Now().Add(patience); b.read.Load() < b.acked.Load(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					problem("%d records were acknowledged, %d read", b.acked.Load(), b.read.Load())
					break
				}
			}
			readEnough()
			wg.Wait()
			producer.Close()
			consumer.Close()
		})
	}
	p.t.Cleanup(b.stop)
	return b
}

// mob is connections from an address that is not the bystander's, each with a goroutine of its own until over.
type mob struct {
	t    *testing.T
	to   string
	over chan struct{}
	wg   sync.WaitGroup
	open atomic.Int64 // connections that stand
}

// connect opens n connections and runs fn on each; fn ends when the connection does. It returns when all were opened.
func (m *mob) connect(n int, fn func(nc net.Conn)) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: patience}
	slots := make(chan struct{}, 64)
	var opened sync.WaitGroup
	for range n {
		slots <- struct{}{}
		opened.Go(func() {
			defer func() { <-slots }()
			nc, err := dialer.Dial("tcp", m.to)
			if err != nil {
				m.t.Errorf("the flood cannot connect: %v", err)
				return
			}
			m.open.Add(1)
			m.wg.Go(func() {
				defer m.open.Add(-1)
				defer func() { _ = nc.Close() }()
				done := make(chan struct{})
				go func() {
					select {
					case <-m.over:
						_ = nc.SetDeadline(time.Unix(1, 0))
					case <-done:
					}
				}()
				fn(nc)
				close(done)
			})
		})
	}
	opened.Wait()
}

// again runs fn on connections, a new one whenever one ends, n at a time.
func (m *mob) again(n int, fn func(nc net.Conn)) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: patience}
	for range n {
		m.wg.Go(func() {
			for {
				select {
				case <-m.over:
					return
				default:
				}
				nc, err := dialer.Dial("tcp", m.to)
				if err != nil {
					return
				}
				_ = nc.SetDeadline(time.Now().Add(3 * time.Second))
				fn(nc)
				_ = nc.Close()
			}
		})
	}
}

func hold(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) }

func say(b []byte) func(nc net.Conn) {
	return func(nc net.Conn) {
		if _, err := nc.Write(b); err == nil {
			hold(nc)
		}
	}
}

func request(req kmsg.Request) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("flood")).AppendRequest(nil, req, 1)
}

// head is a frame's size and a request's first bytes.
func head(size uint32, key, version int16) []byte {
	b := binary.BigEndian.AppendUint32(nil, size)
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	return append(b, 0, 0, 0, 1, 0xff, 0xff)
}

// greedy are requests of about a MiB that ask for as much as they can.
func greedy() (list [][]byte) {
	const many = 40_000
	meta := kmsg.NewPtrMetadataRequest()
	meta.Version = 12
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version = 6
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version, create.ValidateOnly, create.TimeoutMillis = 7, true, 1000
	remove := kmsg.NewPtrDeleteTopicsRequest()
	remove.Version, remove.TimeoutMillis = 5, 1000
	describe := kmsg.NewPtrDescribeConfigsRequest()
	describe.Version, describe.IncludeDocumentation, describe.IncludeSynonyms = 4, true, true
	alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
	alter.Version, alter.ValidateOnly = 1, true
	offsets := kmsg.NewPtrListOffsetsRequest()
	offsets.Version = 7
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.MaxBytes, fetch.MaxWaitMillis, fetch.MinBytes, fetch.SessionEpoch = 12, 1<<30, 300_000, 1<<30, 0
	records := kmsg.NewPtrDeleteRecordsRequest()
	records.Version = 2
	produce := kmsg.NewPtrProduceRequest()
	produce.Version, produce.Acks = 9, -1
	lt, ft, rt, pt := kmsg.NewListOffsetsRequestTopic(), kmsg.NewFetchRequestTopic(), kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewProduceRequestTopic()
	lt.Topic, ft.Topic, rt.Topic, pt.Topic = "wide", "wide", "wide", "wide"
	for i := range many {
		name := fmt.Sprintf("no-%d", i)
		meta.Topics = append(meta.Topics, kmsg.MetadataRequestTopic{Topic: &name})
		find.CoordinatorKeys = append(find.CoordinatorKeys, name)
		remove.TopicNames = append(remove.TopicNames, name)
		ct := kmsg.NewCreateTopicsRequestTopic()
		ct.Topic, ct.NumPartitions, ct.ReplicationFactor = name, 1, 1
		create.Topics = append(create.Topics, ct)
		describe.Resources = append(describe.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "wide"})
		alter.Resources = append(alter.Resources, kmsg.IncrementalAlterConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: name})
		lp, fp, rp := kmsg.NewListOffsetsRequestTopicPartition(), kmsg.NewFetchRequestTopicPartition(), kmsg.NewDeleteRecordsRequestTopicPartition()
		lp.Partition, lp.Timestamp = int32(i), 1
		fp.Partition, fp.PartitionMaxBytes = int32(i%1000), 1<<30
		rp.Partition, rp.Offset = int32(i+1000), 0
		lt.Partitions, rt.Partitions = append(lt.Partitions, lp), append(rt.Partitions, rp)
		ft.Partitions = append(ft.Partitions, fp)
		pt.Partitions = append(pt.Partitions, kmsg.ProduceRequestTopicPartition{Partition: int32(i)})
	}
	offsets.Topics, fetch.Topics, records.Topics, produce.Topics = append(offsets.Topics, lt), append(fetch.Topics, ft), append(records.Topics, rt), append(produce.Topics, pt)
	for _, req := range []kmsg.Request{meta, find, create, remove, describe, alter, offsets, fetch, records, produce} {
		list = append(list, request(req))
	}
	// What decoders allocate a hundred times: arrays of elements of a byte or two.
	for _, key := range []int16{1, 19, 32, 37, 44, 20} {
		req := kmsg.RequestForKey(key)
		req.SetVersion(req.MaxVersion())
		body := bytes.Repeat([]byte{1}, 1<<20)
		list = append(list, append(head(uint32(len(body)+10), key, 1), body...))
	}
	return list
}

// bombs are Produce requests whose batches decompress to a thousand times and more.
func bombs(t *testing.T) (list [][]byte) {
	t.Helper()
	zeros := make([]byte, 8<<20)
	add := func(raw []byte) {
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis = 9, -1, 1000
		pt := kmsg.NewProduceRequestTopic()
		pt.Topic = "wide"
		for p := range int32(16) {
			pt.Partitions = append(pt.Partitions, kmsg.ProduceRequestTopicPartition{Partition: p, Records: raw})
		}
		req.Topics = append(req.Topics, pt)
		list = append(list, request(req))
	}
	for codec := batch.CodecGzip; codec.Valid(); codec++ {
		b := batch.NewBuilder(batch.BuildOptions{Codec: codec})
		for range 7 {
			b.Add(time.Now().UnixMilli(), nil, zeros)
		}
		raw, err := b.Build(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) < 1<<20 { // else it would be refused for its size
			add(raw)
		}
	}
	// gzip members without an end, behind a record that claims 2 GiB.
	member := func(p []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(p)
		_ = w.Close()
		return b.Bytes()
	}
	start := append(binary.AppendVarint(nil, 1<<31-1), 0, 0, 0, 1)
	start = append(start, binary.AppendVarint(nil, 1<<31-200)...)
	one := member(zeros)
	add(sealed(batch.CodecGzip, append(member(start), bytes.Repeat(one, 900_000/len(one))...)))
	return list
}

// sealed is a batch of one record with this payload.
func sealed(codec batch.Codec, payload []byte) []byte {
	b := batch.NewBuilder(batch.BuildOptions{})
	b.Add(time.Now().UnixMilli(), nil, []byte("x"))
	raw, err := b.Build(nil)
	if err != nil {
		panic(err)
	}
	raw = append(raw[:batch.HeaderSize:batch.HeaderSize], payload...)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	raw[22] = byte(codec)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// floods are the ways to do harm. Each stands for as long as over is open.
func floods(t *testing.T) []struct {
	name string
	run  func(m *mob)
} {
	ask, bomb := greedy(), bombs(t)
	all := kmsg.NewPtrMetadataRequest()
	all.Version = 12
	fetch := kmsg.NewPtrFetchRequest()
	fetch.Version, fetch.MaxBytes, fetch.MaxWaitMillis, fetch.MinBytes, fetch.SessionEpoch = 12, 1<<30, 1000, 1, -1
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic = "bystander"
	for p := range int32(12) {
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.PartitionMaxBytes = p, 1<<30
		ft.Partitions = append(ft.Partitions, fp)
	}
	fetch.Topics = append(fetch.Topics, ft)
	pipelined := bytes.Repeat(append(request(all), request(fetch)...), 200)
	pick := func(list [][]byte) []byte { return list[rand.IntN(len(list))] }
	return []struct {
		name string
		run  func(m *mob)
	}{
		{"10 000 connections that say nothing", func(m *mob) { m.connect(crowd, hold) }},
		{"10 000 halves of a request, a byte now and then", func(m *mob) {
			m.connect(crowd, func(nc net.Conn) {
				for b := head(60_000, 3, 9); ; b = []byte{0} {
					if _, err := nc.Write(b); err != nil {
						return
					}
					select {
					case <-time.After(2 * time.Second):
					case <-m.over:
						return
					}
				}
			})
		}},
		{"10 000 that announce 16 MiB of records and send 4 KiB", func(m *mob) {
			m.connect(crowd, say(append(head(16<<20, 0, 9), make([]byte, 4<<10)...)))
		}},
		{"50 that announce 100 MiB once they are known and send half of it", func(m *mob) {
			half := append(head(100<<20, 0, 9), make([]byte, 50<<20)...)
			m.connect(50, func(nc net.Conn) {
				_, _ = nc.Write(request(kmsg.NewPtrApiVersionsRequest()))
				_, _ = io.ReadFull(nc, make([]byte, 4))
				say(half)(nc)
			})
		}},
		{"10 000 that announce 100 MiB", func(m *mob) { m.connect(crowd, say(head(100<<20, 0, 9))) }},
		{"10 000 halves of a TLS hello", func(m *mob) { m.connect(crowd, say([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})) }},
		{"requests that ask for as much as they can, answers taken", func(m *mob) {
			m.again(100, func(nc net.Conn) {
				_, _ = nc.Write(request(kmsg.NewPtrApiVersionsRequest()))
				_, _ = nc.Write(pick(ask))
				hold(nc)
			})
		}},
		{"the same, answers not taken", func(m *mob) {
			m.connect(2000, func(nc net.Conn) {
				_, _ = nc.Write(request(kmsg.NewPtrApiVersionsRequest()))
				for {
					if _, err := nc.Write(pick(ask)); err != nil {
						return
					}
				}
			})
		}},
		{"2 000 that pipeline fetches and metadata and take no answer", func(m *mob) {
			m.connect(2000, func(nc net.Conn) {
				for {
					if _, err := nc.Write(pipelined); err != nil {
						<-m.over
						return
					}
				}
			})
		}},
		{"bombs: gzip, lz4 and zstd that stand for 56 MiB, gzip without an end", func(m *mob) {
			m.again(100, func(nc net.Conn) {
				for range 5 {
					if _, err := nc.Write(pick(bomb)); err != nil {
						return
					}
				}
				hold(nc)
			})
		}},
	}
}

// stand runs every flood beside the bystander and returns the highest memory of all.
func (p *process) stand(b *bystander, base int64) (worst int64) {
	if _, err := p.wide(); err != nil {
		p.t.Fatal(err)
	}
	for _, f := range floods(p.t) {
		b.slowest.Store(0)
		acked := b.acked.Load()
		var stood int64
		most := p.peak(func() {
			m := &mob{t: p.t, to: p.kafka, over: make(chan struct{})}
			f.run(m)
			stood = m.open.Load()
			<-time.After(scenario)
			close(m.over)
			m.wg.Wait()
		})
		worst = max(worst, most)
		p.t.Logf("%-62s %4d MiB, %.2f of the base; %5d connections stood; bystander: %d records acknowledged, slowest %v",
			f.name, most>>20, float64(most)/float64(base), stood, b.acked.Load()-acked, time.Duration(b.slowest.Load()).Round(time.Millisecond))
		if b.acked.Load() == acked {
			p.t.Errorf("%s: the bystander got nothing done", f.name)
		}
	}
	return worst
}

// wide makes a topic of many partitions to ask for.
func (p *process) wide() (kadm.CreateTopicResponse, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.kafka))
	if err != nil {
		return kadm.CreateTopicResponse{}, err
	}
	defer cl.Close()
	return kadm.NewClient(cl).CreateTopic(context.Background(), 1000, 1, nil, "wide")
}

// What the agent is made for: producers and readers at full speed for a while. Then the bystander alone, and the floods, one behind
// the other: what a mob had asked for is still worked off when the next one comes. Each by itself the memory is no more than 1.2
// times what it was; two that overlap and a collector under load add to that, and the test fails beyond 1.5. Where the machine is slow,
// full speed does not take the memory that the agent may use, and what a quiet one may have is no fault of a busy one.
func TestFloodOfABusyAgent(t *testing.T) {
	p := start(t)
	base := p.peak(func() {
		out, err := exec.Command(firnBin, "bench", "--brokers", p.kafka, "--mode", "all", "--max", "--duration", "8s", "--warmup", "2s",
			"--partitions", "12", "--producers", "2", "--json").Output()
		if err != nil || !json.Valid(bytes.TrimSpace(out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:])) {
			t.Fatalf("firn bench: %v\n%s", err, out)
		}
	})
	t.Logf("base: %d MiB under producers and readers at full speed", base>>20)
	b := p.bystander()
	worst := p.stand(b, base)
	b.stop()
	t.Logf("worst: %d MiB, %.2f of the base", worst>>20, float64(worst)/float64(base))
	if worst > max(base+base/2, quietMax) {
		t.Errorf("%d MiB under a flood, %d before", worst>>20, base>>20)
	}
}

// quietMax is the --memory-limit that the agent has, 512 MiB, and a quarter.
const quietMax = 640 << 20

// An agent that never did more than serve the bystander keeps to its --memory-limit, 512 MiB here, which the collector takes for a
// goal and not for a wall: the test fails beyond a quarter more.
func TestFloodOfAQuietAgent(t *testing.T) {
	p := start(t)
	b := p.bystander()
	base := p.peak(func() { <-time.After(3 * scenario) })
	t.Logf("base: %d MiB under 10 MB/s produced and consumed", base>>20)
	worst := p.stand(b, base)
	b.stop()
	t.Logf("worst: %d MiB, %.2f of the base", worst>>20, float64(worst)/float64(base))
	if worst > quietMax {
		t.Errorf("%d MiB under a flood", worst>>20)
	}
}
