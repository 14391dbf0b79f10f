package batch_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/firnlog/firn/objstore/batch"
)

// What Apache Kafka 4.4's own request and log validators say of each of these batches: testdata/kafka-4.4.0.tsv holds name,
// what the topic is, the bytes, and the verdict: error code and the records named. -rewrite writes the first three columns
// for a Java program that fills in the fourth from the published jars.
const verdictsFile = "testdata/kafka-4.4.0.tsv"

// Error codes of the verdicts.
var kafkaCodes = []struct {
	err  error
	code int
}{
	{batch.ErrTooLarge, 10}, {batch.ErrTruncated, 87}, {batch.ErrCorrupt, 2}, {batch.ErrInvalidRecord, 87}, {batch.ErrTimestamp, 32},
	{batch.ErrUnsupportedCodec, 76}, {batch.ErrUnsupportedMagic, 87},
}

// differsFromKafka lists where firn's verdict is another on purpose, and why.
var differsFromKafka = map[string]string{
	"offset deltas shifted, compressed":    "Kafka means to write the batch anew and fails; firn keeps the producer's bytes, which no client could read",
	"offset deltas shifted":                "Kafka stores them as they are, and consumers see offsets twice",
	"offset deltas in reverse":             "as above",
	"marked LogAppendTime":                 "Kafka clears the mark; firn keeps the producer's bytes",
	"a delete horizon":                     "only a log cleaner sets it",
	"a producer id without an epoch":       "no producer sends it, and the state machine could not fence it",
	"a transaction without a producer id":  "there would be nobody to end it",
	"magic 3":                              "Kafka says CORRUPT_MESSAGE, on which clients send the same bytes again",
	"codec 5":                              "Kafka fails with an exception of its own; there is a code for it",
	"marked LogAppendTime on such a topic": "Kafka names every record; it is the batch that is marked",
	"a record past the end, compressed":    "Kafka counts records without looking at how they end; clients do look",
	"a key length of -2":                   "Kafka takes it for null; other clients do not",
	"a key length of -2, compressed":       "as above",
	"a value length of -2":                 "as above",
	"a value length of -2, compressed":     "as above",
	"an overflowing timestamp":             "Kafka lets it wrap, and then finds it out of bounds",
	"an overflowing timestamp, compressed": "as above",
	"a stream cut short gzip":              "Kafka fails with an exception of its own, UNKNOWN_SERVER_ERROR; there is a code for it",
	"a stream cut short snappy":            "as above",
	"a stream cut short lz4":               "as above",
	"a stream cut short zstd":              "as above",
	"no stream at all gzip":                "as above",
	"no stream at all snappy":              "as above",
	"no stream at all lz4":                 "as above",
	"no stream at all zstd":                "as above",
}

type kafkaCase struct {
	name, topic string
	raw         []byte
}

func kafkaCases(t *testing.T) (list []kafkaCase) {
	add := func(name, topic string, raw []byte) { list = append(list, kafkaCase{name, topic, raw}) }
	rec := func(body ...byte) []byte { return append([]byte{byte(len(body) * 2)}, body...) }
	minimal := rec(0, 0, 0, 1, 1, 0)
	plain := build(t, batch.BuildOptions{}, sample(1, 3, 20)...)
	idempotent := build(t, batch.BuildOptions{Producer: &batch.Producer{ID: 9}}, sample(1, 3, 20)...)
	loose := func(change func([]byte)) []byte { b := bytes.Clone(plain); change(b); return b }

	add("good", "", plain)
	for codec := batch.CodecNone; codec.Valid(); codec++ {
		add("good "+codec.String(), "", build(t, batch.BuildOptions{Codec: codec}, sample(1, 5, 30)...))
		add("two records "+codec.String(), "", build(t, batch.BuildOptions{Codec: codec}, record{timestamp: now}, record{timestamp: now}))
		add("null keys "+codec.String(), "compacted", build(t, batch.BuildOptions{Codec: codec},
			record{timestamp: now, key: []byte("k")}, record{timestamp: now}, record{timestamp: now, key: []byte{}}, record{timestamp: now}))
		add("bad timestamps "+codec.String(), "bounded", build(t, batch.BuildOptions{Codec: codec},
			record{timestamp: now}, record{timestamp: now + 3_600_001}, record{timestamp: now - 86_400_001}, record{timestamp: now - 86_400_000},
			record{timestamp: now + 3_600_000}, record{timestamp: -1}, record{timestamp: -2}))
		add("null key and bad timestamp "+codec.String(), "compacted bounded", build(t, batch.BuildOptions{Codec: codec},
			record{timestamp: now}, record{timestamp: 5, key: []byte("k")}, record{timestamp: 5}))
	}
	add("snappy in one raw block", "", build(t, batch.BuildOptions{Codec: batch.CodecSnappy}, sample(1, 5, 30)...))
	add("snappy in xerial framing", "", build(t, batch.BuildOptions{Codec: batch.CodecSnappy, Xerial: true}, sample(1, 5, 30)...))
	add("bounds on a LogAppendTime topic", "appendtime bounded", build(t, batch.BuildOptions{}, record{timestamp: 5}))
	add("nothing", "", nil)
	add("a header cut short", "", plain[:60])
	add("a batch cut short", "", plain[:len(plain)-1])
	add("a second batch", "", append(bytes.Clone(plain), plain...))
	add("magic 1", "", edit(plain, func(b []byte) { b[16] = 1 }))
	add("magic 3", "", edit(plain, func(b []byte) { b[16] = 3 }))
	add("a negative length", "", loose(func(b []byte) { b[8] = 0xff }))
	add("a length below a header's", "", loose(func(b []byte) { binary.BigEndian.PutUint32(b[8:], 48) }))
	add("a wrong CRC", "", loose(func(b []byte) { b[17]++ }))
	add("a flipped bit in a record", "", loose(func(b []byte) { b[len(b)-1]++ }))
	add("a leader epoch", "", edit(plain, func(b []byte) { b[15] = 7 }))
	add("a base offset", "", edit(plain, func(b []byte) { b[7] = 1 }))
	add("more bytes than allowed", "small", plain)
	add("codec 5", "", edit(plain, func(b []byte) { b[22] = 5 }))
	add("an unknown attribute", "", edit(plain, func(b []byte) { b[21] = 0x80 }))
	add("a control batch", "", edit(idempotent, func(b []byte) { b[22] |= 0x20 }))
	add("a delete horizon", "", edit(plain, func(b []byte) { b[22] |= 0x40 }))
	add("marked LogAppendTime", "", edit(plain, func(b []byte) { b[22] |= 8 }))
	add("marked LogAppendTime on such a topic", "appendtime", edit(plain, func(b []byte) { b[22] |= 8 }))
	add("no records", "", withPayload(0, 0, nil))
	add("a negative record count", "", withPayload(0, -3, nil))
	add("a count above the offsets", "", edit(plain, func(b []byte) { b[60]++ }))
	add("offsets above the count", "", edit(plain, func(b []byte) { b[26]++ }))
	add("a record too few", "", edit(plain, func(b []byte) { b[26]++; b[60]++ }))
	add("a record too many", "", edit(plain, func(b []byte) { b[26]--; b[60]-- }))
	add("a negative last offset delta", "", edit(plain, func(b []byte) { b[23] = 0xff }))
	add("a wrong max timestamp", "", edit(plain, func(b []byte) { b[40]++ }))
	add("a producer id without a sequence", "", edit(idempotent, func(b []byte) { b[53] = 0xff }))
	add("a producer id without an epoch", "", edit(idempotent, func(b []byte) { b[51] = 0xff }))
	add("a transaction without a producer id", "", edit(plain, func(b []byte) { b[22] |= 0x10 }))
	add("the smallest record", "", withPayload(0, 1, minimal))
	add("record attributes", "", withPayload(0, 1, rec(0x7f, 0, 0, 1, 1, 0)))
	add("offset deltas shifted", "", withPayload(0, 2, append(rec(0, 0, 2, 1, 1, 0), rec(0, 0, 4, 1, 1, 0)...)))
	add("offset deltas shifted, compressed", "", compressed(t, 2, append(rec(0, 0, 2, 1, 1, 0), rec(0, 0, 4, 1, 1, 0)...)))
	add("offset deltas in reverse", "", withPayload(0, 2, append(rec(0, 0, 2, 1, 1, 0), rec(0, 0, 0, 1, 1, 0)...)))
	for _, bad := range []struct {
		name    string
		payload []byte
	}{
		{"an empty record", []byte{0}}, {"a negative record length", []byte{1}}, {"a record past the end", []byte{14, 0, 0, 0, 1, 1, 0}},
		{"a 2 GiB record", []byte{0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 1, 1, 0}},
		{"a byte too many in a record", rec(0, 0, 0, 1, 1, 0, 0)}, {"a byte too few in a record", rec(0, 0, 0, 1, 1)},
		{"bytes after the last record", append(bytes.Clone(minimal), 0)},
		{"a key past its record", rec(0, 0, 0, 8, 1, 0)}, {"a key length of -2", rec(0, 0, 0, 3, 1, 0)},
		{"a value length of -2", rec(0, 0, 0, 1, 3, 0)}, {"a negative header count", rec(0, 0, 0, 1, 1, 1)},
		{"a header count without headers", rec(0, 0, 0, 1, 1, 60)}, {"a null header key", rec(0, 0, 0, 1, 1, 2, 1, 1)},
		{"a header value past its record", rec(0, 0, 0, 1, 1, 2, 0, 4)}, {"a header", rec(0, 0, 0, 1, 1, 2, 2, 'h', 1)},
		{"an overflowing timestamp", rec(append(binary.AppendVarint([]byte{0}, math.MaxInt64), 0, 1, 1, 0)...)},
	} {
		add(bad.name, "", withPayload(0, 1, bad.payload))
		add(bad.name+", compressed", "", compressed(t, 1, bad.payload))
	}
	add("a compressed record too large", "records", build(t, batch.BuildOptions{Codec: batch.CodecGzip}, record{timestamp: now, value: bytes.Repeat([]byte("v"), 120)}))
	add("a compressed record as large as allowed", "records", build(t, batch.BuildOptions{Codec: batch.CodecGzip}, record{timestamp: now, value: bytes.Repeat([]byte("v"), 80)}))
	for codec := batch.CodecGzip; codec.Valid(); codec++ {
		whole := build(t, batch.BuildOptions{Codec: codec}, sample(1, 5, 300)...)
		cut := whole[:len(whole)-8]
		binary.BigEndian.PutUint32(cut[8:], uint32(len(cut)-12))
		add("a stream cut short "+codec.String(), "", reseal(cut))
		add("no stream at all "+codec.String(), "", withPayload(codec, 1, []byte("not compressed at all")))
	}
	return list
}

// compressed is withPayload under gzip.
func compressed(t *testing.T, count int32, payload []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(payload); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return withPayload(batch.CodecGzip, count, b.Bytes())
}

func (c kafkaCase) limits() batch.Limits {
	lim := batch.Limits{Now: now, TimestampBeforeMax: math.MaxInt64, TimestampAfterMax: 3_600_000, MaxRecordBytes: math.MaxInt32}
	for _, word := range strings.Fields(c.topic) {
		switch word {
		case "compacted":
			lim.RequireKeys = true
		case "bounded":
			lim.TimestampBeforeMax = 86_400_000
		case "appendtime":
			lim.TimestampType = batch.LogAppendTime
		case "small":
			lim.MaxBatchBytes = 100
		case "records":
			lim.MaxRecordBytes = 100
		}
	}
	return lim
}

// verdict is what firn says.
func (c kafkaCase) verdict(v *batch.Validator) string {
	if len(c.raw) == 0 { // no batch at all: the caller's to refuse
		return "87"
	}
	_, err := v.Validate(c.raw, c.limits())
	if err == nil {
		return "0"
	}
	code := -1
	for _, k := range kafkaCodes {
		if errors.Is(err, k.err) {
			code = k.code
			break
		}
	}
	var broken batch.RecordErrors
	said := fmt.Sprint(code)
	if errors.As(err, &broken) {
		for _, r := range broken {
			said += fmt.Sprint(" ", r.Index)
		}
	}
	return said
}

func TestKafkasOwnValidatorAgrees(t *testing.T) {
	if *rewrite {
		var b strings.Builder
		for _, c := range kafkaCases(t) {
			fmt.Fprintf(&b, "%s\t%s\t%s\n", c.name, c.topic, hex.EncodeToString(c.raw))
		}
		if err := os.WriteFile(verdictsFile+".cases", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	body, err := os.ReadFile(verdictsFile)
	if err != nil {
		t.Fatal(err)
	}
	v := batch.NewValidator()
	seen := 0
	for line := range strings.Lines(string(body)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		raw, err := hex.DecodeString(f[2])
		if err != nil || len(f) != 4 {
			t.Fatalf("%q: %v", line, err)
		}
		c := kafkaCase{f[0], f[1], raw}
		seen++
		got := c.verdict(v)
		why, differs := differsFromKafka[c.name]
		if (got != f[3]) != differs {
			t.Errorf("%s (%s): %s, Kafka says %s; differs on purpose: %v %s", c.name, c.topic, got, f[3], differs, why)
		}
	}
	if seen < 80 {
		t.Errorf("only %d cases", seen)
	}
}
