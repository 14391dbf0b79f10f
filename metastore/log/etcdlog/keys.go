package etcdlog

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/firnlog/firn/metastore/log"
)

// keys names everything below one prefix; doc.go has the table.
type keys struct{ prefix string }

func (k keys) all() string                       { return k.prefix + "/" }
func (k keys) meta() string                      { return k.prefix + "/meta" }
func (k keys) head() string                      { return k.prefix + "/log/~n" }
func (k keys) log() string                       { return k.prefix + "/log/" }
func (k keys) logEnd() string                    { return k.prefix + "/log/~" }
func (k keys) agents() string                    { return k.prefix + "/agents/" }
func (k keys) agent(i log.Incarnation) string    { return k.prefix + "/agents/" + i.String() }
func (k keys) cell(name string) string           { return k.prefix + "/cells/" + name }
func (k keys) entry(key log.Key) string          { return k.log() + key.String() }
func (k keys) entryEnd(i log.Incarnation) string { return k.log() + i.String() + "0" } // '0' follows '/'

// parseEntry is the inverse of entry.
func (k keys) parseEntry(b []byte) (log.Key, error) {
	rest, ok := strings.CutPrefix(string(b), k.log())
	incarnation, seq, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || len(seq) != 16 {
		return log.Key{}, fmt.Errorf("not an entry key: %q", b)
	}
	n, err := strconv.ParseUint(seq, 16, 64)
	if err != nil {
		return log.Key{}, fmt.Errorf("not an entry key: %q", b)
	}
	i, err := parseIncarnation(incarnation)
	if err != nil {
		return log.Key{}, fmt.Errorf("not an entry key: %q: %w", b, err)
	}
	return log.Key{Incarnation: i, Seq: n}, nil
}

func parseIncarnation(s string) (log.Incarnation, error) {
	var i log.Incarnation
	if len(s) != hex.EncodedLen(len(i)) {
		return i, fmt.Errorf("not an incarnation: %q", s)
	}
	if _, err := hex.Decode(i[:], []byte(s)); err != nil {
		return i, fmt.Errorf("not an incarnation: %q", s)
	}
	return i, nil
}
