package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	valueMagic       = "fbn1"
	valueHeaderBytes = 28
	// poolBytes is how much distinct payload there is: several batches, so that no codec's window sees a repetition.
	poolBytes = 16 << 20
)

// errForeign says that a record is not of this run.
var errForeign = errors.New("not a record of this run")

// payload cuts values from a pool made once, so that making a record costs a copy.
type payload struct {
	run  uint64
	size int // of a value
	pool []byte
}

func newPayload(kind string, run uint64, size int, seed uint64) payload {
	p := payload{run: run, size: size}
	want := poolBytes + size
	rng := rand.New(rand.NewPCG(seed, 3))
	if kind == "random" {
		p.pool = make([]byte, 0, want+8)
		for len(p.pool) < want {
			p.pool = binary.LittleEndian.AppendUint64(p.pool, rng.Uint64())
		}
		return p
	}
	levels := []string{"debug", "info", "info", "info", "warn", "error"}
	steps := []string{"order placed", "payment accepted", "payment declined", "parcel sent", "parcel delivered", "order closed"}
	for len(p.pool) < want {
		p.pool = fmt.Appendf(p.pool, `{"ts":"2024-03-%02dT%02d:%02d:%02dZ","level":%q,"host":"web-%02d","customer":%d,"msg":%q,"ms":%d}`+"\n",
			1+rng.IntN(28), rng.IntN(24), rng.IntN(60), rng.IntN(60), levels[rng.IntN(len(levels))], rng.IntN(40),
			rng.IntN(1_000_000), steps[rng.IntN(len(steps))], rng.IntN(2000))
	}
	return p
}

// appendValue appends a value to dst; see the package comment.
func (p payload) appendValue(dst []byte, intended time.Duration, number int64) []byte {
	dst = append(dst, valueMagic...)
	dst = binary.BigEndian.AppendUint64(dst, p.run)
	dst = binary.BigEndian.AppendUint64(dst, uint64(intended))
	dst = binary.BigEndian.AppendUint64(dst, uint64(number))
	at := int(uint64(number)*uint64(p.size)) % poolBytes
	return append(dst, p.pool[at:at+p.size-valueHeaderBytes]...)
}

// intendedOf reads the intended time back. The error wraps errForeign.
func (p payload) intendedOf(value []byte) (time.Duration, error) {
	if len(value) < valueHeaderBytes || string(value[:4]) != valueMagic || binary.BigEndian.Uint64(value[4:]) != p.run {
		return 0, fmt.Errorf("%w: %d bytes", errForeign, len(value))
	}
	return time.Duration(binary.BigEndian.Uint64(value[12:])), nil
}
