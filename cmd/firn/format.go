package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

// formatHelp documents what parseFormat takes.
const formatHelp = `Format verbs:
  %k  key (nothing where it is null)       %t  topic
  %v  value                                %p  partition
  %K  bytes of the key, -1 where null      %o  offset
  %V  bytes of the value                   %e  leader epoch of the partition
  %h  headers, as key=value,key=value      %T  timestamp, milliseconds since 1970
  %H  number of headers                    %%  a percent sign
%k and %v take an encoding: %k{hex}, %v{base64}, %v{json} (a JSON string, or null).
%h takes the name of a header, whose last value it prints: %h{trace}, and with an encoding %h{trace:hex}.
%T takes ms, s, rfc3339, or a layout of Go's time package: %T{2006-01-02 15:04:05}. Times are in UTC.
Escapes: \n new line, \t tab, \r carriage return, \\ backslash, \xHH the byte HH.`

// format is a compiled --format: each step appends one part of a record.
type format []step

// step appends a part of a record.
type step func(dst []byte, r *kgo.Record) []byte

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
			at, letter, modifier := i, layout[i], ""
			if takesModifier(letter) && i+1 < len(layout) && layout[i+1] == '{' {
				length := strings.IndexByte(layout[i+2:], '}')
				if length < 0 {
					return wrong(i+1, "{ without a }")
				}
				modifier = layout[i+2 : i+2+length]
				if modifier == "" {
					return wrong(i+1, "nothing between { and }")
				}
				i += 2 + length
			}
			if verb(letter) == nil {
				return wrong(at, fmt.Sprintf("%%%c is not a verb, see firn consume --help", letter))
			}
			if modifier == "" {
				f = append(f, verb(letter))
				continue
			}
			modified := modifiedVerb(letter, modifier)
			if modified == nil {
				return wrong(at, fmt.Sprintf("%%%c does not take {%s}, see firn consume --help", letter, modifier))
			}
			f = append(f, modified)
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
func verb(c byte) step {
	switch c {
	case 'k':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Key...) }
	case 'v':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Value...) }
	case 'K':
		return func(dst []byte, r *kgo.Record) []byte { return appendLength(dst, r.Key) }
	case 'V':
		return func(dst []byte, r *kgo.Record) []byte { return appendLength(dst, r.Value) }
	case 'o':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Offset, 10) }
	case 'p':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, int64(r.Partition), 10) }
	case 'e':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, int64(r.LeaderEpoch), 10) }
	case 't':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Topic...) }
	case 'T':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10) }
	case 'h':
		return appendHeaders
	case 'H':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, int64(len(r.Headers)), 10) }
	case '%':
		return func(dst []byte, _ *kgo.Record) []byte { return append(dst, '%') }
	}
	return nil
}

// takesModifier says whether a brace after a verb belongs to it.
func takesModifier(c byte) bool { return strings.IndexByte("kvhT", c) >= 0 }

// modifiedVerb returns what a verb with {modifier} appends, or nil where it does not take that.
func modifiedVerb(c byte, modifier string) step {
	switch c {
	case 'k', 'v':
		encode := encoding(modifier)
		if encode == nil {
			return nil
		}
		if c == 'k' {
			return func(dst []byte, r *kgo.Record) []byte { return encode(dst, r.Key) }
		}
		return func(dst []byte, r *kgo.Record) []byte { return encode(dst, r.Value) }
	case 'h':
		name, encode := modifier, func(dst, b []byte) []byte { return append(dst, b...) }
		if i := strings.LastIndexByte(modifier, ':'); i >= 0 && encoding(modifier[i+1:]) != nil {
			name, encode = modifier[:i], encoding(modifier[i+1:])
		}
		return func(dst []byte, r *kgo.Record) []byte {
			for i := len(r.Headers) - 1; i >= 0; i-- {
				if r.Headers[i].Key == name {
					return encode(dst, r.Headers[i].Value)
				}
			}
			return dst
		}
	case 'T':
		return timeLayout(modifier)
	}
	return nil
}

// encoding returns what appends bytes in a named encoding, or nil for an unknown one.
func encoding(name string) func(dst, b []byte) []byte {
	switch name {
	case "hex":
		return hex.AppendEncode
	case "base64":
		return base64.StdEncoding.AppendEncode
	case "json":
		return func(dst, b []byte) []byte {
			if b == nil {
				return append(dst, "null"...)
			}
			quoted, _ := json.Marshal(string(b)) // a string always encodes
			return append(dst, quoted...)
		}
	}
	return nil
}

// timeLayout returns what appends a timestamp as %T{layout} says, or nil where that is no layout: it names no part of a time.
func timeLayout(layout string) step {
	switch layout {
	case "ms":
		return verb('T')
	case "s":
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Timestamp.Unix(), 10) }
	case "rfc3339":
		layout = "2006-01-02T15:04:05.000Z07:00"
	}
	if time.UnixMilli(1).UTC().Format(layout) == layout && time.UnixMilli(1e12).UTC().Format(layout) == layout {
		return nil
	}
	return func(dst []byte, r *kgo.Record) []byte { return r.Timestamp.UTC().AppendFormat(dst, layout) }
}

func appendLength(dst, b []byte) []byte {
	if b == nil {
		return append(dst, "-1"...)
	}
	return strconv.AppendInt(dst, int64(len(b)), 10)
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
