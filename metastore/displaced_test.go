package metastore_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/localstack/faketime"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/entry"
	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/metastore/state"
)

// Two agents of one name: the newer one has it, the older one ends and says why. Neither joins again and again.
func TestOneNameIsOneAgent(t *testing.T) {
	bubble(t, 61, func(t *testing.T, c *cluster) {
		older := c.open("a")
		newer := c.open("a", func(cfg *metastore.Config) { cfg.Zone = "z2" })
		defer c.close(older, newer)
		select {
		case <-older.Failed():
		case <-time.After(time.Minute):
			t.Fatal("the older agent goes on")
		}
		if err := older.Err(); !errors.Is(err, metastore.ErrDisplaced) || !strings.Contains(err.Error(), `zone "z2"`) {
			t.Errorf("the older agent ended with %v", err)
		}
		incarnation := newer.Incarnation()
		c.propose(newer, topic("t"))
		time.Sleep(5 * time.Minute)
		if newer.Err() != nil || newer.Incarnation() != incarnation || newer.NodeID() != older.NodeID() {
			t.Errorf("the newer agent: %v, incarnation %v then %v", newer.Err(), incarnation, newer.Incarnation())
		}
	})
}

// An agent that peers removed, because its registration was gone, joins again as soon as it applies that.
func TestRemovedAgentJoinsAgainAtOnce(t *testing.T) {
	bubble(t, 62, func(t *testing.T, c *cluster) {
		a, b := c.open("a"), c.open("b")
		defer c.close(a, b)
		before := a.Incarnation()
		c.propose(b, &entry.Leave{Incarnation: before})
		began := time.Now()
		for joined := false; !joined; {
			time.Sleep(10 * time.Millisecond)
			faketime.Wait()
			a.View(func(st *state.State) { _, joined = st.AgentByIncarnation(a.Incarnation()) })
			joined = joined && a.Incarnation() != before
			if time.Since(began) > time.Second {
				t.Fatal("it has not joined again within a second")
			}
		}
	})
}

// What an agent asks before it registers can refuse it, and then nothing is registered.
func TestAdmitComesBeforeTheRegistration(t *testing.T) {
	bubble(t, 63, func(t *testing.T, c *cluster) {
		a := c.open("a", func(cfg *metastore.Config) { cfg.Info = []byte("info of a") })
		defer c.close(a)
		no := errors.New("no")
		cfg := c.config("b")
		l := c.store.Open("b")
		defer l.Close()
		var seen []log.Member
		cfg.Admit = func(ctx context.Context) (err error) { seen, err = l.Members(ctx); return errors.Join(err, no) }
		if _, err := metastore.Open(t.Context(), cfg, l, c.bucket); !errors.Is(err, no) {
			t.Errorf("open: %v", err)
		}
		if len(seen) != 1 || string(seen[0].Info) != "info of a" {
			t.Errorf("members at the time: %v", seen)
		}
		if now, err := l.Members(t.Context()); err != nil || len(now) != 1 {
			t.Errorf("members now: %v, %v", now, err)
		}
	})
}
