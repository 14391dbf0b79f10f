package badinput_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/objstore/batch"
)

// wire is a bare connection that speaks whole requests.
type wire struct {
	t           *testing.T
	nc          net.Conn
	correlation int32
}

func (c *cluster) wire() *wire { return &wire{t: c.t, nc: c.dial()} }

func (w *wire) send(req kmsg.Request) {
	w.t.Helper()
	w.correlation++
	w.write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("bad")).AppendRequest(nil, req, w.correlation))
}

func (w *wire) write(b []byte) {
	w.t.Helper()
	if _, err := w.nc.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// closed asserts that the agent hangs up without an answer.
func (w *wire) closed(what string) {
	w.t.Helper()
	if b, err := io.ReadAll(w.nc); len(b) > 0 {
		w.t.Errorf("%s: %d bytes of an answer, %v", what, len(b), err)
	}
}

// ask sends a request and reads its response.
func ask[R kmsg.Response](w *wire, req kmsg.Request) R {
	w.t.Helper()
	w.send(req)
	var head [8]byte
	if _, err := io.ReadFull(w.nc, head[:]); err != nil {
		w.t.Fatalf("no answer to %T: %v", req, err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:4])-4)
	if _, err := io.ReadFull(w.nc, b); err != nil {
		w.t.Fatal(err)
	}
	res := req.ResponseKind()
	if res.IsFlexible() && res.Key() != 18 {
		b = b[1:]
	}
	if err := res.ReadFrom(b); err != nil || int32(binary.BigEndian.Uint32(head[4:])) != w.correlation {
		w.t.Fatalf("answer to %T: %v", req, err)
	}
	return res.(R)
}

func (w *wire) produce(topic string, partition int32, raw []byte) kmsg.ProduceResponseTopicPartition {
	w.t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 11, -1, 30_000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: partition, Records: raw}}}}
	return ask[*kmsg.ProduceResponse](w, req).Topics[0].Partitions[0]
}

func (w *wire) fetch(topic string, partition int32, offset int64) kmsg.FetchResponseTopicPartition {
	w.t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxBytes, req.SessionEpoch = 12, 1<<20, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1<<20
	req.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	return ask[*kmsg.FetchResponse](w, req).Topics[0].Partitions[0]
}

func (w *wire) deleteRecords(topic string, partition int32, before int64) kmsg.DeleteRecordsResponseTopicPartition {
	w.t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = 2, 30_000
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: before}}}}
	return ask[*kmsg.DeleteRecordsResponse](w, req).Topics[0].Partitions[0]
}

// sent is a record to build; a nil key is null.
type sent struct {
	at    int64
	key   []byte
	value string
}

func built(t *testing.T, codec batch.Codec, records ...sent) []byte {
	t.Helper()
	b := batch.NewBuilder(batch.BuildOptions{Codec: codec})
	for _, r := range records {
		b.Add(r.at, r.key, []byte(r.value))
	}
	raw, err := b.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sealed is a changed copy of a batch with a CRC that is right again.
func sealed(raw []byte, change func(b []byte)) []byte {
	b := bytes.Clone(raw)
	change(b)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// around is a batch of count records with these bytes for its records.
func around(raw []byte, codec batch.Codec, count int32, payload ...byte) []byte {
	b := append(bytes.Clone(raw[:batch.HeaderSize]), payload...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	binary.BigEndian.PutUint32(b[23:], uint32(count-1))
	binary.BigEndian.PutUint32(b[57:], uint32(count))
	return sealed(b, func(b []byte) { b[22] = byte(codec) })
}

func nowMs() int64 { return time.Now().UnixMilli() }

// set is a set of configs.
func set(pairs ...string) map[string]*string {
	m := make(map[string]*string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &pairs[i+1]
	}
	return m
}

func TestUnknownKeysAndVersions(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	frame := func(key, version int16) []byte {
		body := []byte{0, 0, 0, 10}
		body = binary.BigEndian.AppendUint16(body, uint16(key))
		body = binary.BigEndian.AppendUint16(body, uint16(version))
		return append(body, 0, 0, 0, 7, 0xff, 0xff)
	}
	for _, bad := range []struct{ key, version int16 }{{-1, 0}, {999, 0}, {4, 0}, {0, 99}, {1, -1}, {3, 99}, {75, 1}} {
		w := c.wire()
		w.write(frame(bad.key, bad.version))
		w.closed(fmt.Sprint("key ", bad.key, " version ", bad.version))
	}
	// One line says so; the others of that second are counted.
	if found := c.logs.with("closing a connection", "unknown API key -1"); len(found) != 1 {
		t.Errorf("what the log says of it: %q", found)
	}
	// ApiVersions of a version to come is answered in version 0, and the connection goes on (KIP-511).
	w := c.wire()
	w.write(frame(18, 99))
	head := make([]byte, 10)
	if _, err := io.ReadFull(w.nc, head); err != nil || binary.BigEndian.Uint16(head[8:]) != 35 {
		t.Errorf("ApiVersions version 99: %x, %v", head, err)
	}
	b.check()
}

func TestMalformedBatches(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	c.create("bad", 1, nil)
	good := built(t, batch.CodecNone, sent{nowMs(), []byte("k"), "v"}, sent{nowMs(), []byte("k"), "w"})
	loose := func(change func(b []byte)) []byte { b := bytes.Clone(good); change(b); return b }
	w := c.wire()
	offset := int64(0)
	for _, bad := range []struct {
		name string
		raw  []byte
		code int16
	}{
		{"a wrong CRC", loose(func(b []byte) { b[17]++ }), 2},
		{"a flipped bit", loose(func(b []byte) { b[len(b)-1] ^= 1 }), 2},
		{"magic 0", sealed(good, func(b []byte) { b[16] = 0 }), 87},
		{"magic 1", sealed(good, func(b []byte) { b[16] = 1 }), 87},
		{"magic 3", sealed(good, func(b []byte) { b[16] = 3 }), 87},
		{"nothing", nil, 87},
		{"cut short", good[:len(good)-1], 87},
		{"a header alone", good[:40], 87},
		{"a negative length", loose(func(b []byte) { b[8] = 0xff }), 2},
		{"two batches", append(bytes.Clone(good), good...), 87},
		{"bytes after the batch", append(bytes.Clone(good), 0), 87},
		{"a base offset", sealed(good, func(b []byte) { b[7] = 1 }), 87},
		{"a count above the records", sealed(good, func(b []byte) { b[26]++; b[60]++ }), 87},
		{"a count below the records", sealed(good, func(b []byte) { b[26]--; b[60]-- }), 87},
		{"a count unlike the offsets", sealed(good, func(b []byte) { b[60]++ }), 87},
		{"a negative count", sealed(good, func(b []byte) { b[57] = 0xff }), 87},
		{"no records", around(good, 0, 0), 87},
		{"offset deltas in reverse", around(good, 0, 2, 12, 0, 0, 2, 1, 1, 0, 12, 0, 0, 0, 1, 1, 0), 87},
		{"a negative record length", around(good, 0, 1, 1), 87},
		{"a record past the end", around(good, 0, 1, 14, 0, 0, 0, 1, 1, 0), 87},
		{"a 2 GiB record", around(good, 0, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 1, 0), 87},
		{"a key of -2 bytes", around(good, 0, 1, 12, 0, 0, 0, 3, 1, 0), 87},
		{"a value past its record", around(good, 0, 1, 12, 0, 0, 0, 1, 8, 0), 87},
		{"a negative header count", around(good, 0, 1, 12, 0, 0, 0, 1, 1, 1), 87},
		{"headers that are not there", around(good, 0, 1, 12, 0, 0, 0, 1, 1, 60), 87},
		{"a header without a key", around(good, 0, 1, 16, 0, 0, 0, 1, 1, 2, 1, 1), 87},
		{"bytes after the last record", around(good, 0, 1, 12, 0, 0, 0, 1, 1, 0, 9), 87},
		{"no gzip stream", around(good, batch.CodecGzip, 1, 1, 2, 3), 87},
		{"no snappy block", around(good, batch.CodecSnappy, 1, 0xff, 2, 3), 87},
		{"no lz4 frame", around(good, batch.CodecLZ4, 1, 1, 2, 3), 87},
		{"no zstd frame", around(good, batch.CodecZstd, 1, 1, 2, 3), 87},
		{"a codec that is not known", sealed(good, func(b []byte) { b[22] = 5 }), 76},
		{"a control batch", sealed(good, func(b []byte) { b[22] |= 0x20 }), 87},
		{"a delete horizon", sealed(good, func(b []byte) { b[22] |= 0x40 }), 87},
		{"a batch of a transaction", sealed(good, func(b []byte) { b[22] |= 0x10; clear(b[43:57]) }), 53},
		{"an idempotent batch without a sequence", sealed(good, func(b []byte) { clear(b[43:53]) }), 87},
		{"marked LogAppendTime", sealed(good, func(b []byte) { b[22] |= 8 }), 32},
	} {
		if p := w.produce("bad", 0, bad.raw); p.ErrorCode != bad.code || p.ErrorMessage == nil || p.BaseOffset != -1 {
			t.Errorf("%s: code %d, offset %d, %v", bad.name, p.ErrorCode, p.BaseOffset, p.ErrorMessage)
		}
		// The connection goes on, and nothing was stored.
		if p := w.produce("bad", 0, good); p.ErrorCode != 0 || p.BaseOffset != offset {
			t.Fatalf("after %s: code %d, offset %d", bad.name, p.ErrorCode, p.BaseOffset)
		}
		offset += 2
	}
	b.check()
}

func TestTooLarge(t *testing.T) {
	c := open(t, options{config: func(c *agent.Config) { c.RequestBytes = 256 << 10 }})
	b := c.bystander(false)
	c.create("small", 1, set("max.message.bytes", "2000", "max.decompressed.message.bytes", "500"))
	w := c.wire()
	one := func(codec batch.Codec, size int) []byte {
		return built(t, codec, sent{nowMs(), nil, "first"}, sent{nowMs(), nil, strings.Repeat("x", size)})
	}
	if p := w.produce("small", 0, one(batch.CodecNone, 3000)); p.ErrorCode != 10 || p.ErrorMessage == nil {
		t.Errorf("a batch beyond max.message.bytes: code %d", p.ErrorCode)
	}
	for codec := batch.CodecGzip; codec.Valid(); codec++ {
		p := w.produce("small", 0, one(codec, 1000))
		if p.ErrorCode != 87 || len(p.ErrorRecords) != 1 || p.ErrorRecords[0].RelativeOffset != 1 {
			t.Errorf("%v: a record beyond max.decompressed.message.bytes: code %d, %+v", codec, p.ErrorCode, p.ErrorRecords)
		}
	}
	if p := w.produce("small", 0, one(batch.CodecNone, 1000)); p.ErrorCode != 0 {
		t.Errorf("afterwards: code %d %v", p.ErrorCode, p.ErrorMessage)
	}
	// A request beyond --request-bytes is not read to its end: the connection closes.
	huge := c.wire()
	huge.write([]byte{0, 5, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1})
	huge.closed("a request of 327 680 bytes")
	b.check()
}

func TestUnknownTopicsAndPartitions(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	c.create("there", 1, nil)
	w := c.wire()
	good := built(t, batch.CodecNone, sent{nowMs(), nil, "v"})
	for _, bad := range []struct {
		topic     string
		partition int32
	}{{"absent", 0}, {"there", 1}, {"there", -1}, {"", 0}, {"not/a/name", 0}, {strings.Repeat("n", 300), 0}} {
		list := kmsg.NewPtrListOffsetsRequest()
		list.Version = 7
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp = bad.partition, -1
		list.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: bad.topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
		for api, code := range map[string]int16{
			"Produce": w.produce(bad.topic, bad.partition, good).ErrorCode, "Fetch": w.fetch(bad.topic, bad.partition, 0).ErrorCode,
			"ListOffsets":   ask[*kmsg.ListOffsetsResponse](w, list).Topics[0].Partitions[0].ErrorCode,
			"DeleteRecords": w.deleteRecords(bad.topic, bad.partition, 0).ErrorCode,
		} {
			if code != 3 {
				t.Errorf("%s of %.20q-%d: code %d", api, bad.topic, bad.partition, code)
			}
		}
	}
	meta := kmsg.NewPtrMetadataRequest()
	meta.Version, meta.Topics = 12, []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("absent")}, {Topic: kmsg.StringPtr("not/a/name")}, {TopicID: [16]byte{9}}}
	meta.AllowAutoTopicCreation = false
	for i, rt := range ask[*kmsg.MetadataResponse](w, meta).Topics {
		if want := []int16{3, 17, 100}[i]; rt.ErrorCode != want {
			t.Errorf("Metadata %d: code %d, want %d", i, rt.ErrorCode, want)
		}
	}
	b.check()
}

func TestOffsetsOutOfRange(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	c.create("short", 1, nil)
	c.create("compacted", 1, set("cleanup.policy", "compact"))
	w := c.wire()
	for range 4 {
		w.produce("short", 0, built(t, batch.CodecNone, sent{nowMs(), nil, "v"}))
	}
	if p := w.deleteRecords("short", 0, 2); p.ErrorCode != 0 || p.LowWatermark != 2 {
		t.Fatalf("%+v", p)
	}
	for offset, code := range map[int64]int16{-5: 1, 0: 1, 1: 1, 2: 0, 4: 0, 5: 1, 1 << 62: 1} {
		if p := w.fetch("short", 0, offset); p.ErrorCode != code || code == 0 && p.LogStartOffset != 2 {
			t.Errorf("fetch from %d: code %d, log start %d", offset, p.ErrorCode, p.LogStartOffset)
		}
	}
	for before, code := range map[int64]int16{-2: 1, 5: 1, 1 << 62: 1, 1: 0} {
		if p := w.deleteRecords("short", 0, before); p.ErrorCode != code || code == 0 && p.LowWatermark != 2 {
			t.Errorf("delete before %d: %+v", before, p)
		}
	}
	if p := w.deleteRecords("compacted", 0, -1); p.ErrorCode != 44 {
		t.Errorf("delete from a compacted topic: %+v", p)
	}
	b.check()
}

func TestRecordsAgainstTheRulesOfTheirTopic(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	c.create("compacted", 1, set("cleanup.policy", "compact"))
	c.create("bounded", 1, set("message.timestamp.before.max.ms", "60000", "message.timestamp.after.max.ms", "60000"))
	w := c.wire()
	key := []byte("k")
	for codec := batch.CodecNone; codec.Valid(); codec++ {
		for _, bad := range []struct {
			topic   string
			records []sent
			code    int16
			blame   []int32
		}{
			{"compacted", []sent{{nowMs(), key, "v"}, {nowMs(), nil, "v"}, {nowMs(), key, ""}, {nowMs(), nil, "v"}}, 87, []int32{1, 3}},
			{"bounded", []sent{{nowMs() - 3_600_000, nil, "old"}, {nowMs(), nil, "v"}, {nowMs() + 3_600_000, nil, "new"}}, 32, []int32{0, 2}},
		} {
			p := w.produce(bad.topic, 0, built(t, codec, bad.records...))
			var blamed []int32
			for _, r := range p.ErrorRecords {
				if r.ErrorMessage == nil {
					t.Errorf("record %d is blamed without a reason", r.RelativeOffset)
				}
				blamed = append(blamed, r.RelativeOffset)
			}
			if p.ErrorCode != bad.code || p.BaseOffset != -1 || !slices.Equal(blamed, bad.blame) {
				t.Errorf("%s, %v: code %d, records %v, want %d, %v", bad.topic, codec, p.ErrorCode, blamed, bad.code, bad.blame)
			}
		}
	}
	b.check()
}

func TestBadTopicsAndConfigs(t *testing.T) {
	c := open(t, options{})
	b := c.bystander(false)
	c.create("there", 2, set("retention.ms", "5000"))
	w := c.wire()
	create := func(name string, partitions int32, configs ...string) (int16, *string) {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis = 7, 30_000
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, 1
		for k, v := range set(configs...) {
			rt.Configs = append(rt.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: k, Value: v})
		}
		req.Topics = append(req.Topics, rt)
		res := ask[*kmsg.CreateTopicsResponse](w, req).Topics[0]
		return res.ErrorCode, res.ErrorMessage
	}
	alter := func(name string, configs ...string) (int16, *string) {
		req := kmsg.NewPtrAlterConfigsRequest()
		req.Version = 2
		rr := kmsg.AlterConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: name}
		for k, v := range set(configs...) {
			rr.Configs = append(rr.Configs, kmsg.AlterConfigsRequestResourceConfig{Name: k, Value: v})
		}
		req.Resources = append(req.Resources, rr)
		res := ask[*kmsg.AlterConfigsResponse](w, req).Resources[0]
		return res.ErrorCode, res.ErrorMessage
	}
	for _, bad := range []struct {
		what string
		code int16
		do   func() (int16, *string)
	}{
		{"a name with a slash", 17, func() (int16, *string) { return create("a/b", 1) }},
		{"a name of 250 bytes", 17, func() (int16, *string) { return create(strings.Repeat("n", 250), 1) }},
		{"a name of dots", 17, func() (int16, *string) { return create("..", 1) }},
		{"no partitions", 37, func() (int16, *string) { return create("new", 0) }},
		{"too many partitions", 37, func() (int16, *string) { return create("new", 1_000_000) }},
		{"a topic that is there", 36, func() (int16, *string) { return create("there", 1) }},
		{"an unknown config", 40, func() (int16, *string) { return create("new", 1, "retention.days", "1") }},
		{"a bad value", 40, func() (int16, *string) { return create("new", 1, "retention.ms", "a week") }},
		{"a value out of bounds", 40, func() (int16, *string) { return alter("there", "segment.bytes", "1000") }},
		{"a config of Kafka 3", 40, func() (int16, *string) { return alter("there", "message.format.version", "2.8") }},
		{"tiered storage", 40, func() (int16, *string) { return alter("there", "remote.storage.enable", "true") }},
		{"a contradiction", 40, func() (int16, *string) {
			return alter("there", "min.compaction.lag.ms", "5", "max.compaction.lag.ms", "4")
		}},
		{"configs of a topic that is not there", 3, func() (int16, *string) { return alter("absent", "retention.ms", "1") }},
	} {
		if code, why := bad.do(); code != bad.code || why == nil || *why == "" {
			t.Errorf("%s: code %d, %v", bad.what, code, why)
		}
	}
	describe := kmsg.NewPtrDescribeConfigsRequest()
	describe.Version = 4
	describe.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "there", ConfigNames: []string{"retention.ms"}}}
	if res := ask[*kmsg.DescribeConfigsResponse](w, describe).Resources[0]; *res.Configs[0].Value != "5000" {
		t.Errorf("afterwards retention.ms is %s", *res.Configs[0].Value)
	}
	b.check()
}
