package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is the compression of a batch's records, as in bits 0-2 of the attributes.
type Codec int8

// The codecs of the format.
const (
	CodecNone Codec = iota
	CodecGzip
	CodecSnappy // raw, or in the framing of the xerial library, which Java clients write
	CodecLZ4    // the LZ4 frame format
	CodecZstd
)

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// Valid reports whether the codec is one of the format's.
func (c Codec) Valid() bool { return c >= CodecNone && c <= CodecZstd }

// String returns Kafka's name of the codec.
func (c Codec) String() string {
	if !c.Valid() {
		return fmt.Sprintf("codec %d", int8(c))
	}
	return codecNames[c]
}

// invalid says that the compressed stream is malformed. The CRC has matched by then: see the package documentation.
func (c Codec) invalid(err error) error {
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return fmt.Errorf("%s: %w: %w", c, err, ErrTooLarge)
	}
	return fmt.Errorf("%s: %w: %w", c, err, ErrInvalidRecord)
}

const (
	// zstdWindowMax is what streaming decoders must support (RFC 8878); levels up to 19 stay within it.
	zstdWindowMax = 8 << 20
	// zstdRetainMax is the largest window whose room is kept for the next batch: that of level 3, which producers use.
	zstdRetainMax = 2 << 20
	// snappyRatioMax bounds what a raw block can decode to: no element yields more than 64 bytes from 3.
	snappyRatioMax = 22
)

var (
	errLZ4Frame   = errors.New("not a frame of independent blocks")
	errLZ4End     = errors.New("frame does not end where the batch does")
	errXerial     = errors.New("malformed xerial framing")
	errSnappySize = errors.New("declared size is impossible")
)

// codecs are the decoders of one Validator, made when first needed.
type codecs struct {
	src  bytes.Reader
	gzip *gzip.Reader
	lz4  *lz4.Reader
	zstd *zstd.Decoder
	// zstdWindow is the largest window that the decoder made room for, and keeps.
	zstdWindow uint64
	snappy     snappyReader
	window     []byte
}

// open makes s read the records of a batch, at most limit bytes of them once decompressed.
func (c *codecs) open(s *stream, codec Codec, payload []byte, limit int64) error {
	*s = stream{codec: codec, limit: limit}
	switch codec {
	case CodecNone:
		s.buf, s.end = payload, len(payload)
		return nil
	case CodecGzip:
		if c.gzip == nil {
			c.gzip = new(gzip.Reader)
		}
		c.src.Reset(payload)
		if err := c.gzip.Reset(&c.src); err != nil {
			return codec.invalid(err)
		}
		s.r = c.gzip
	case CodecSnappy:
		if err := c.snappy.reset(payload, limit); err != nil {
			return err
		}
		if !c.snappy.framed {
			if err := c.snappy.next(); err != nil {
				return err
			}
			s.buf, s.end = c.snappy.out, len(c.snappy.out)
			return nil
		}
		s.r = &c.snappy
	case CodecLZ4:
		if err := checkLZ4(payload); err != nil {
			return codec.invalid(err)
		}
		c.src.Reset(payload)
		if c.lz4 == nil {
			c.lz4 = lz4.NewReader(&c.src)
		} else {
			c.lz4.Reset(&c.src)
		}
		s.r = c.lz4
	case CodecZstd:
		if all, err := c.openZstd(payload, limit); err != nil {
			s.buf = all // what came out until then counts as decompressed
			return codec.invalid(err)
		} else if all != nil {
			s.buf, s.end = all, len(all)
			return nil
		}
		s.r = c.zstd
	default:
		return fmt.Errorf("%s: %w", codec, ErrUnsupportedCodec)
	}
	if c.window == nil {
		c.window = make([]byte, windowSize)
	}
	s.buf = c.window
	return nil
}

// close lets go of the batch and of buffers that only a rare batch needs.
func (c *codecs) close(s *stream) {
	if s.r != nil && len(s.buf) <= retainMax {
		c.window = s.buf
	}
	*s = stream{}
	c.src.Reset(nil)
	if c.zstdWindow > zstdRetainMax {
		c.zstd.Close()
		c.zstd, c.zstdWindow = nil, 0
	}
	c.snappy.in, c.snappy.out = nil, nil
	if cap(c.snappy.buf) > retainMax {
		c.snappy.buf = nil
	}
}

// openZstd prepares the streaming decoder, or returns the whole output where a frame declares a window beyond
// zstdWindowMax: a streaming decoder would allocate that window at once, while decoding whole needs what comes out. Such
// windows are those of levels 20 to 22, and of one-shot encoders given more than 8 MiB.
func (c *codecs) openZstd(payload []byte, limit int64) ([]byte, error) {
	window, err := zstdWindow(payload)
	if err != nil {
		return nil, err
	}
	if window > zstdWindowMax {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(limit)))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		all, err := d.DecodeAll(payload, []byte{})
		return all, err
	}
	if c.zstd == nil {
		// One goroutine, the caller's. Inputs of other types than *bytes.Buffer are never decoded ahead of Read.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindowMax))
		if err != nil {
			return nil, err
		}
		c.zstd = d
	}
	c.zstdWindow = max(c.zstdWindow, window)
	c.src.Reset(payload)
	return nil, c.zstd.Reset(&c.src)
}

// checkLZ4 checks that b is exactly one LZ4 frame such as Kafka's Java reader takes: version 1, independent blocks, no
// dictionary, nothing after it. The decoder itself would go on to further, skippable or legacy frames.
func checkLZ4(b []byte) error {
	const (
		frameMagic                                  = 0x184d2204
		version, versionMask, independent, reserved = 0x40, 0xc0, 0x20, 0x03
		blockChecksum, contentSize, contentChecksum = 0x10, 0x08, 0x04
	)
	if len(b) < 7 || binary.LittleEndian.Uint32(b) != frameMagic {
		return errLZ4Frame
	}
	flags := b[4]
	if flags&versionMask != version || flags&independent == 0 || flags&reserved != 0 {
		return errLZ4Frame
	}
	at, between, after := 7, 0, 0
	if flags&contentSize != 0 {
		at += 8
	}
	if flags&blockChecksum != 0 {
		between = 4
	}
	if flags&contentChecksum != 0 {
		after = 4
	}
	for {
		if len(b)-at < 4 {
			return errLZ4End
		}
		size := int(binary.LittleEndian.Uint32(b[at:]) &^ (1 << 31))
		at += 4
		if size == 0 {
			break
		}
		if size+between > len(b)-at {
			return errLZ4End
		}
		at += size + between
	}
	if at+after != len(b) {
		return errLZ4End
	}
	return nil
}

// snappyReader reads raw blocks of snappy: one alone, or many in xerial framing, which is a 16 byte header (magic,
// version, oldest compatible version) and then per block a big endian size.
type snappyReader struct {
	in     []byte
	out    []byte // decoded and not yet read; aliases buf
	buf    []byte
	limit  int64 // of one block; stream counts them together
	framed bool
}

const xerialHeader = "\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"

func isXerial(in []byte) bool {
	const magicSize = 8
	return len(in) >= magicSize && string(in[:magicSize]) == xerialHeader[:magicSize]
}

func (r *snappyReader) reset(in []byte, limit int64) error {
	const compatible = 12
	r.in, r.out, r.limit = in, nil, limit
	r.framed = isXerial(in)
	if !r.framed {
		return nil
	}
	if len(in) < len(xerialHeader) || binary.BigEndian.Uint32(in[compatible:]) > 1 {
		return CodecSnappy.invalid(errXerial)
	}
	r.in = in[len(xerialHeader):]
	return nil
}

// next decodes a block into out. The declared size is checked against the limit and against what the block could
// possibly hold before anything of that size is allocated.
func (r *snappyReader) next() error {
	block := r.in
	if r.framed {
		if len(r.in) < 4 {
			return CodecSnappy.invalid(errXerial)
		}
		size := binary.BigEndian.Uint32(r.in)
		if uint64(size) > uint64(len(r.in)-4) {
			return CodecSnappy.invalid(errXerial)
		}
		block = r.in[4 : 4+size]
		r.in = r.in[4+size:]
	} else {
		r.in = nil
	}
	size, err := s2.DecodedLen(block)
	switch {
	case err != nil:
		return CodecSnappy.invalid(err)
	case size > snappyRatioMax*len(block):
		return CodecSnappy.invalid(errSnappySize)
	case int64(size) > r.limit:
		return fmt.Errorf("snappy records exceed the limit with a block of %d bytes: %w", size, ErrTooLarge)
	}
	if size > cap(r.buf) {
		r.buf = make([]byte, size)
	}
	if r.out, err = s2.Decode(r.buf[:cap(r.buf)], block); err != nil {
		return CodecSnappy.invalid(err)
	}
	return nil
}

// Read implements io.Reader for the framed form.
func (r *snappyReader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if len(r.in) == 0 {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}
