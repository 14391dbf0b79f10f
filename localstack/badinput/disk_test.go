package badinput_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/objstore/faulty"
	"github.com/firnlog/firn/wal/walfs"
)

// flood produces more than the stage holds, from several clients at once, and reads it back: nothing may be lost.
func (c *cluster) flood(topic string) {
	c.t.Helper()
	const clients, each = 4, 48
	c.create(topic, clients, nil)
	var wg sync.WaitGroup
	for p := range clients {
		wg.Go(func() {
			cl, err := kgo.NewClient(kgo.SeedBrokers(c.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()),
				kgo.MetadataMinAge(50*time.Millisecond))
			if err != nil {
				c.t.Error(err)
				return
			}
			defer cl.Close()
			var records []*kgo.Record
			for i := range each {
				value := append(fmt.Appendf(nil, "%d-%d ", p, i), make([]byte, 40<<10)...)
				records = append(records, &kgo.Record{Topic: topic, Partition: int32(p), Value: value})
			}
			for i, r := range cl.ProduceSync(c.t.Context(), records...) {
				if r.Err != nil || r.Record.Offset != int64(i) {
					c.t.Errorf("record %d of partition %d: offset %d, %v", i, p, r.Record.Offset, r.Err)
					return
				}
			}
		})
	}
	wg.Wait()
	for p := range clients {
		cl := c.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {int32(p): kgo.NewOffset().AtStart()}}))
		for i := 0; i < each; {
			fetches := cl.PollFetches(c.t.Context())
			if err := fetches.Err(); err != nil {
				c.t.Fatal(err)
			}
			for _, r := range fetches.Records() {
				if want := fmt.Appendf(nil, "%d-%d ", p, i); r.Offset != int64(i) || !bytes.HasPrefix(r.Value, want) {
					c.t.Fatalf("partition %d, offset %d: %.20q where %q was due", p, r.Offset, r.Value, want)
				}
				i++
			}
		}
	}
}

// withheld has the bucket take and give nothing, while run runs, until something holds.
func (c *cluster) withheld(until func() bool, run func()) {
	c.t.Helper()
	open := make(chan struct{})
	if err := c.bucket.SetConfig(faulty.Config{Slow: 1, SlowMax: time.Second, Sleep: func(ctx context.Context, _ time.Duration) error {
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}); err != nil {
		c.t.Fatal(err)
	}
	ran := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		defer close(open)
		for end := time.Now().Add(patience); !until() && time.Now().Before(end); {
			select {
			case <-ran:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	defer func() {
		close(ran)
		watch.Wait()
		if err := c.bucket.SetConfig(faulty.Config{}); err != nil {
			c.t.Error(err)
		}
	}()
	run()
}

// A disk that takes nothing costs room, not records: what does not fit into memory waits for the bucket, the producers with it. One line
// says so, one that it is over, and nobody sees an error.
func TestDiskRefusesWhatDoesNotFitIntoMemory(t *testing.T) {
	spillFault := func(err error) func(*walfs.FS) {
		return func(d *walfs.FS) {
			d.SetFault(func(op walfs.Op) error {
				if strings.HasSuffix(op.Name, ".spill") && op.Kind != walfs.OpRemove {
					return err
				}
				return nil
			})
		}
	}
	for name, tt := range map[string]struct {
		fail func(*walfs.FS)
		word string
	}{
		"full":      {func(d *walfs.FS) { d.SetCapacity(1) }, "no space left on device"},
		"io error":  {spillFault(syscall.EIO), "input/output error"},
		"read only": {spillFault(syscall.EROFS), "read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, options{config: func(a *agent.Config) {
				a.StageBytes, a.SegmentBytes, a.UploadSlots, a.WALBytes = 1<<20, 256<<10, 2, 64<<20
			}})
			b := c.bystander(false)
			tt.fail(c.disk)
			// The bucket takes nothing before the agent has met the disk: how fast this machine is decides nothing.
			flood := func(topic, until string) {
				t.Helper()
				c.withheld(func() bool { return len(c.logs.with(until)) > 0 }, func() { c.flood(topic) })
			}
			flood("during", "the disk takes no batches")
			if said := c.logs.with("the disk takes no batches", tt.word); len(said) != 1 {
				t.Errorf("the agent said %q", said)
			}
			if h := c.health(); !h.Ready || !strings.Contains(h.Degraded, "disk: ") || !strings.Contains(h.Degraded, tt.word) {
				t.Errorf("health: %+v", h)
			}
			c.disk.SetFault(nil)
			c.disk.SetCapacity(0)
			flood("after", "the disk takes batches again")
			if said := c.logs.with("the disk takes"); len(said) != 2 {
				t.Errorf("the agent said %q", said)
			}
			if said := c.logs.with("level=ERROR"); len(said) > 0 {
				t.Errorf("the agent said %q", said)
			}
			b.check()
		})
	}
}

// A disk that an agent cannot start on stops it, and the message says what is missing. The others go on.
func TestStartOnADiskThatFails(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	fault := func(kind walfs.OpKind, err error) func(*walfs.FS) {
		return func(d *walfs.FS) {
			d.SetFault(func(op walfs.Op) error {
				if op.Kind == kind {
					return err
				}
				return nil
			})
		}
	}
	for name, tt := range map[string]struct {
		fail  func(*walfs.FS)
		is    error
		words []string
	}{
		"full":             {func(d *walfs.FS) { d.SetCapacity(100 << 10) }, syscall.ENOSPC, []string{"the disk is full", "8388608 bytes", "--wal-bytes"}},
		"over quota":       {fault(walfs.OpPreallocate, syscall.EDQUOT), syscall.EDQUOT, []string{"the disk is full", "--wal-bytes"}},
		"read only":        {fault(walfs.OpCreate, syscall.EROFS), syscall.EROFS, []string{"writable", "--data-dir"}},
		"not permitted":    {fault(walfs.OpCreate, syscall.EACCES), syscall.EACCES, []string{"writable", "--data-dir"}},
		"no directory":     {fault(walfs.OpMkdir, syscall.ENOENT), syscall.ENOENT, []string{"--data-dir"}},
		"fsync fails":      {fault(walfs.OpSync, syscall.EIO), syscall.EIO, []string{"mend the disk"}},
		"directory's sync": {fault(walfs.OpSyncDir, syscall.EIO), syscall.EIO, []string{"mend the disk"}},
	} {
		t.Run(name, func(t *testing.T) {
			disk := walfs.New(rand.New(rand.NewPCG(6, 6)))
			tt.fail(disk)
			_, err := c.join(second{disk: disk})
			if !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			names(t, err, append(tt.words, "write-ahead log", "/wal")...)
			disk.SetFault(nil)
			disk.SetCapacity(0)
			a, err := c.join(second{disk: disk}) // what the failed start left is no trouble
			if err != nil {
				t.Fatal(err)
			}
			drain(a)
		})
	}
	b.check()
}
