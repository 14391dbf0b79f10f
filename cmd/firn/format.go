package main

import (
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

// formatHelp documents what parseFormat takes.
const formatHelp = `Format verbs:
  %k  key (nothing where there is none)    %t  topic
  %v  value                                %p  partition
  %o  offset                               %T  timestamp, milliseconds since 1970
  %h  headers, as key=value,key=value      %%  a percent sign
Escapes: \n new line, \t tab, \r carriage return, \\ backslash, \xHH the byte HH.`

// format is a compiled --format: each step appends one part of a record.
type format []func(dst []byte, r *kgo.Record) []byte

// append appends r to dst.
func (f format) append(dst []byte, r *kgo.Record) []byte {
	for _, step := range f {
		dst = step(dst, r)
	}
	return dst
}

// parseFormat compiles a layout. Errors wrap client.ErrUsage and name the byte.
func parseFormat(layout string) (format, error) {
	var f format
	wrong := func(i int, problem string) (format, error) {
		return nil, fmt.Errorf("%w: --format: byte %d of %q: %s", client.ErrUsage, i+1, layout, problem)
	}
	literal := func(c byte) {
		f = append(f, func(dst []byte, _ *kgo.Record) []byte { return append(dst, c) })
	}
	for i := 0; i < len(layout); i++ {
		c := layout[i]
		if c != '%' && c != '\\' {
			literal(c)
			continue
		}
		if i+1 == len(layout) {
			return wrong(i, fmt.Sprintf("%q needs a letter after it", c))
		}
		i++
		if c == '%' {
			step := verb(layout[i])
			if step == nil {
				return wrong(i, fmt.Sprintf("%%%c is not a verb, use %%k %%v %%o %%p %%t %%T %%h or %%%%", layout[i]))
			}
			f = append(f, step)
			continue
		}
		switch layout[i] {
		case 'n':
			literal('\n')
		case 't':
			literal('\t')
		case 'r':
			literal('\r')
		case '\\':
			literal('\\')
		case 'x':
			if i+2 >= len(layout) {
				return wrong(i, `\x needs two hexadecimal digits`)
			}
			b, err := strconv.ParseUint(layout[i+1:i+3], 16, 8)
			if err != nil {
				return wrong(i, `\x needs two hexadecimal digits`)
			}
			literal(byte(b))
			i += 2
		default:
			return wrong(i, fmt.Sprintf(`\%c is not an escape, use \n \t \r \\ or \xHH`, layout[i]))
		}
	}
	return f, nil
}

// verb returns what one letter after % appends, or nil for an unknown one.
func verb(c byte) func(dst []byte, r *kgo.Record) []byte {
	switch c {
	case 'k':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Key...) }
	case 'v':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Value...) }
	case 'o':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Offset, 10) }
	case 'p':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, int64(r.Partition), 10) }
	case 't':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Topic...) }
	case 'T':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10) }
	case 'h':
		return appendHeaders
	case '%':
		return func(dst []byte, _ *kgo.Record) []byte { return append(dst, '%') }
	}
	return nil
}

func appendHeaders(dst []byte, r *kgo.Record) []byte {
	for i, h := range r.Headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, h.Key...), '='), h.Value...)
	}
	return dst
}
