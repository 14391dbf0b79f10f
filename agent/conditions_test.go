package agent_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/agent"
	"github.com/firnlog/firn/objstore/metered"
)

func TestAnOutageIsToldAtItsStartAtItsEndAndEveryFiveMinutes(t *testing.T) {
	var out bytes.Buffer
	look := agent.Look(slog.New(slog.NewTextHandler(&out, nil)))
	now := time.Unix(1_000_000, 0)
	for range 10 {
		look("", now)
		now = now.Add(time.Second)
	}
	for second := range 15 * 60 { // away for a quarter of an hour, but for three seconds every minute
		cause := "refused"
		if second%60 >= 57 {
			cause = ""
		}
		look(cause, now)
		now = now.Add(time.Second)
	}
	for range 60 {
		look("", now)
		now = now.Add(time.Second)
	}
	for what, want := range map[string]int{"msg=degraded": 1, "msg=\"still degraded\"": 2, "msg=recovered": 1, "after=14m57s": 1, "level=": 4} {
		if got := strings.Count(out.String(), what); got != want {
			t.Errorf("%q is there %d times, want %d:\n%s", what, got, want, out.String())
		}
	}
}

func TestABucketIsJudgedByRequestsInARow(t *testing.T) {
	saw, causes := agent.BucketHealth()
	check := func(what string, wantRead, wantWrite bool) {
		t.Helper()
		read, write := causes()
		if read != "" != wantRead || write != "" != wantWrite {
			t.Errorf("%s: read %q, write %q", what, read, write)
		}
	}
	for range 2 {
		saw(metered.OpPut, metered.OutcomeUnavailable, time.Millisecond)
	}
	check("two failures", false, false)
	saw(metered.OpPut, metered.OutcomeOK, time.Millisecond)
	for range 2 {
		saw(metered.OpPut, metered.OutcomeUnavailable, time.Millisecond)
	}
	check("two more, with a success between", false, false)
	saw(metered.OpGet, metered.OutcomeNotFound, time.Millisecond)
	saw(metered.OpPut, metered.OutcomeDenied, time.Millisecond)
	check("three in a row", false, true)
	saw(metered.OpGetRange, metered.OutcomeOK, time.Millisecond)
	check("reads are another matter", false, true)
	saw(metered.OpPut, metered.OutcomeExists, time.Millisecond)
	check("an answer, whatever it is", false, false)
	saw(metered.OpGet, metered.OutcomeCancelled, time.Millisecond)
	saw(metered.OpGet, metered.OutcomeCancelled, time.Millisecond)
	saw(metered.OpGet, metered.OutcomeCancelled, time.Millisecond)
	check("clients that left", false, false)
	saw(metered.OpGet, metered.OutcomeCancelled, 10*time.Second)
	check("a request that was given up after long", true, false)
}
