package batch

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// encoders compress records. They are made when first needed and kept; not safe for concurrent use.
type encoders struct {
	gzip   *gzip.Writer
	lz4    *lz4.Writer
	zstd   *zstd.Encoder
	snappy []byte // one block
}

// compress appends records to dst under the codec. xerial is the framing of snappy that Java clients write.
func (e *encoders) compress(dst []byte, codec Codec, xerial bool, records []byte) ([]byte, error) {
	switch codec {
	case CodecNone:
		return append(dst, records...), nil
	case CodecGzip:
		out := bytes.NewBuffer(dst)
		if e.gzip == nil {
			e.gzip = gzip.NewWriter(out)
		} else {
			e.gzip.Reset(out)
		}
		if _, err := e.gzip.Write(records); err != nil {
			return nil, err
		}
		err := e.gzip.Close()
		return out.Bytes(), err
	case CodecSnappy:
		if !xerial {
			e.snappy = s2.EncodeSnappy(e.snappy[:cap(e.snappy)], records)
			return e.release(append(dst, e.snappy...)), nil
		}
		const blockSize = 32 << 10
		dst = append(dst, xerialHeader...)
		for len(records) > 0 {
			n := min(blockSize, len(records))
			e.snappy = s2.EncodeSnappy(e.snappy[:cap(e.snappy)], records[:n])
			dst = binary.BigEndian.AppendUint32(dst, uint32(len(e.snappy)))
			dst = append(dst, e.snappy...)
			records = records[n:]
		}
		return dst, nil
	case CodecLZ4:
		out := bytes.NewBuffer(dst)
		if e.lz4 == nil {
			e.lz4 = lz4.NewWriter(out)
		} else {
			e.lz4.Reset(out)
		}
		if err := e.lz4.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
			return nil, err
		}
		if _, err := e.lz4.Write(records); err != nil {
			return nil, err
		}
		err := e.lz4.Close()
		return out.Bytes(), err
	case CodecZstd:
		if e.zstd == nil {
			w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindowMax))
			if err != nil {
				return nil, err
			}
			e.zstd = w
		}
		return e.zstd.EncodeAll(records, dst), nil
	}
	return nil, fmt.Errorf("%s: %w", codec, ErrUnsupportedCodec)
}

// release lets go of a buffer that only a rare batch needs.
func (e *encoders) release(b []byte) []byte {
	if cap(e.snappy) > retainMax {
		e.snappy = nil
	}
	return b
}
