package main

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"
)

// progressEvery is how often the bar is drawn.
const progressEvery = 200 * time.Millisecond

// progress draws how far a command is, over and over on one line of a terminal.
//
// Its counters may be added to from any goroutine. The goroutine of start alone writes, until stop, which waits for it.
type progress struct {
	label   string
	columns int
	total   int64 // bytes of input, or -1 where that is not known
	read    atomic.Int64
	records atomic.Int64 // acknowledged, as bytes is
	bytes   atomic.Int64
	failed  atomic.Int64
	began   time.Time
	quit    chan struct{}
	gone    chan struct{}
}

// start draws on w until stop.
func (p *progress) start(w io.Writer, columns int) {
	p.columns, p.quit, p.gone = columns, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(p.gone)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				_, _ = fmt.Fprintf(w, "\r%s\x1b[K", p.line(now.Sub(p.began)))
			case <-p.quit:
				_, _ = fmt.Fprint(w, "\r\x1b[K") // what comes next has the line to itself
				return
			}
		}
	}()
}

// stop takes the bar away. It does nothing where there is none.
func (p *progress) stop() {
	if p.quit != nil {
		close(p.quit)
		<-p.gone
		p.quit = nil
	}
}

// line is the bar after some time, cut to the terminal.
func (p *progress) line(after time.Duration) string {
	records, size := p.records.Load(), p.bytes.Load()
	seconds := max(after.Seconds(), 0.001)
	counts := fmt.Sprintf("%d records  %s  %.0f records/s  %s/s", records, bytesText(float64(size)), float64(records)/seconds, bytesText(float64(size)/seconds))
	if failed := p.failed.Load(); failed > 0 {
		counts += fmt.Sprintf("  %d FAILED", failed)
	}
	line := p.label + "  " + counts
	if p.total > 0 {
		done := min(float64(p.read.Load())/float64(p.total), 1)
		const width = 20
		full := int(done * width)
		line = fmt.Sprintf("%s  [%s%s] %3.0f%%  %s", p.label, strings.Repeat("=", full), strings.Repeat(" ", width-full), 100*done, counts)
	}
	if runes := []rune(line); len(runes) >= p.columns && p.columns > 0 {
		line = string(runes[:p.columns-1])
	}
	return line
}
