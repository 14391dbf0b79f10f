package sparse_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/firnlog/firn/agent/sparse"
	"github.com/firnlog/firn/localstack/faketime"
)

func TestOneLineAnIntervalSaysHowManyWereLeftOut(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		var l sparse.Lines
		take := func(kind string, wantOut int, want bool) {
			t.Helper()
			if out, ok := l.Take(kind); out != wantOut || ok != want {
				t.Errorf("%s: %d, %v, want %d, %v", kind, out, ok, wantOut, want)
			}
		}
		take("a", 0, true)
		for range 1000 {
			take("a", 0, false)
		}
		take("b", 0, true)
		time.Sleep(sparse.Interval)
		take("a", 1000, true)
		take("a", 0, false)
		take("b", 0, true)
	})
}

func TestKindsAreBounded(t *testing.T) {
	faketime.Test(t, func(t *testing.T) {
		var l sparse.Lines
		written := 0
		for i := range 10_000 {
			if _, ok := l.Take(strconv.Itoa(i)); ok {
				written++
			}
		}
		if written > 300 {
			t.Errorf("%d lines for 10 000 kinds", written)
		}
		time.Sleep(sparse.Interval)
		if _, ok := l.Take("new"); !ok {
			t.Error("quiet kinds make no room")
		}
	})
}
