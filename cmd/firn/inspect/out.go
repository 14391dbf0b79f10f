package inspect

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"
)

// item is one thing that was found. Its JSON has the field "type" first.
type item interface {
	// text is the item for people, without a line end at the end.
	text() string
}

// Out prints items as they are found.
type Out struct {
	w      *bufio.Writer
	json   *json.Encoder // nil for text
	quiet  bool          // print damage only
	damage int
	first  string // damage
}

// NewOut prints to w, as JSON or as text. Flush ends it.
func NewOut(w io.Writer, asJSON bool) *Out {
	o := &Out{w: bufio.NewWriter(w)}
	if asJSON {
		o.json = json.NewEncoder(o.w)
		o.json.SetEscapeHTML(false)
	}
	return o
}

// Flush writes out what is buffered.
func (o *Out) Flush() error { return o.w.Flush() }

// Damage is how many places were found damaged, and the first of them in words.
func (o *Out) Damage() (count int, first string) { return o.damage, o.first }

func (o *Out) put(i item) error {
	if d, ok := i.(*Damage); ok {
		if o.damage++; o.damage == 1 {
			o.first = d.words()
		}
	}
	if _, damage := i.(*Damage); o.quiet && !damage {
		return nil
	}
	if o.json != nil {
		return o.json.Encode(i)
	}
	_, err := o.w.WriteString(i.text() + "\n")
	return err
}

// only prints damage, and nothing else, while do runs.
func (o *Out) only(do func() error) error {
	o.quiet = true
	defer func() { o.quiet = false }()
	return do()
}

// end prints the summary of an input.
func (o *Out) end(format, name string) error {
	return o.put(&Summary{Type: "summary", Format: format, Name: name, Sound: o.damage == 0, Damage: o.damage})
}

// Summary is the last item of every command.
type Summary struct {
	Type   string `json:"type"`
	Format string `json:"format"`
	Name   string `json:"name"`
	Sound  bool   `json:"sound"`
	Damage int    `json:"damage"` // places
}

func (s *Summary) text() string {
	switch {
	case s.Sound && s.Format == "entry":
		return "sound    it decodes; an entry has no checksum of its own, the chain hash and the archive cover it"
	case s.Sound:
		return "sound    no damage found"
	}
	return fmt.Sprintf("DAMAGED  %d %s", s.Damage, plural(s.Damage, "place"))
}

// Damage is a place where the bytes are not what was written.
type Damage struct {
	Type     string `json:"type"`
	Name     string `json:"name"` // file or object
	Part     string `json:"part"`
	Block    *int   `json:"block,omitempty"`
	Chunk    *int   `json:"chunk,omitempty"`
	Position int64  `json:"position"`       // first byte of the damaged unit, in the file or object
	Size     int64  `json:"size,omitempty"` // of that unit; 0: to where is not known
	Problem  string `json:"problem"`
	Want     string `json:"want,omitempty"`
	Got      string `json:"got,omitempty"`
}

func (d *Damage) text() string { return "DAMAGE   " + d.words() }

func (d *Damage) words() string {
	s := d.Name + ": " + d.Part
	if d.Block != nil {
		s += fmt.Sprintf(" of block %d", *d.Block)
	}
	if d.Chunk != nil {
		s += fmt.Sprintf(", chunk %d", *d.Chunk)
	}
	s += fmt.Sprintf(", at position %d", d.Position)
	if d.Size > 0 {
		s += fmt.Sprintf(" (%d bytes)", d.Size)
	}
	s += ": " + d.Problem
	if d.Want != "" || d.Got != "" {
		s += fmt.Sprintf(", want %s, got %s", d.Want, d.Got)
	}
	return s
}

// Note says something that is neither data nor damage.
type Note struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

func (n *Note) text() string { return "note     " + n.Text }

func (o *Out) note(format string, args ...any) error {
	return o.put(&Note{Type: "note", Text: fmt.Sprintf(format, args...)})
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

func crcText(crc uint32) string { return fmt.Sprintf("%08x", crc) }

// moment is a time in milliseconds for people.
func moment(ms int64) string {
	if ms < 0 || ms > 253402300799999 { // years of four digits
		return strconv.FormatInt(ms, 10)
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// byteText is a byte string in JSON: {"text": …} where it is UTF-8, else {"base64": …}; null is nil.
type byteText struct {
	Text   *string `json:"text,omitempty"`
	Base64 *string `json:"base64,omitempty"`
}

func byteTextOf(b []byte) *byteText {
	if b == nil {
		return nil
	}
	text := string(b)
	if utf8.Valid(b) {
		return &byteText{Text: &text}
	}
	text = base64.StdEncoding.EncodeToString(b)
	return &byteText{Base64: &text}
}

func (b *byteText) String() string {
	switch {
	case b == nil:
		return "null"
	case b.Text != nil:
		return strconv.Quote(*b.Text)
	}
	return "base64:" + *b.Base64
}

func batches(n int) string {
	if n == 1 {
		return "batch"
	}
	return "batches"
}
