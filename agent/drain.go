package agent

import (
	"context"
	"fmt"
	"time"
)

// Drain takes the agent out of service and stops it, in steps:
//
//	notice      /readyz is false; everything else goes on for Config.DrainNotice, so that load balancers send nobody new
//	duties      what goes on in the background ends where it is; other agents do it. What does not end is left behind
//	hand over   the slots of groups go to other agents; their members look for the coordinator again and find it
//	members     where clients know the agents: for a moment members are answered, so that they learn of it in one step
//	answer      no new connections; what was read is answered, long polls at once; each connection is closed after its last answer
//	commit      what was staged and nobody waits for any more is uploaded and ordered
//	leave       peers are told, and need not wait for the registration to lapse
//
// Where ctx ends first the rest is cut off; nothing acknowledged depends on it.
func (a *Agent) Drain(ctx context.Context) error {
	if !a.state.CompareAndSwap(serving, draining) {
		a.stop(ctx)
		return nil
	}
	began := time.Now()
	a.parts.Logger.Info("draining", "agent", a.cfg.Name, "connections", a.kafka.Connections(), "notice", a.cfg.DrainNotice)
	var failed error
	step := func(name string, do func(context.Context) error) {
		since := time.Now()
		err := do(ctx)
		if err != nil && failed == nil {
			failed = fmt.Errorf("drain: %s: %w", name, err)
		}
		args := []any{"agent", a.cfg.Name, "step", name, "took", time.Since(since).Round(time.Millisecond)}
		if err != nil {
			args = append(args, "error", err)
		}
		a.parts.Logger.Info("draining", args...)
	}
	step("notice", a.notice)
	step("duties", a.endDuties)
	had := a.groups.Members()
	step("hand over", a.handOver)
	if had > 0 && a.groups.Members() == 0 && a.cfg.AdvertiseMode == AdvertiseDirect {
		step("members", a.tellMembers)
	}
	step("answer", a.kafka.Drain)
	step("commit", a.ingest.Drain)
	step("leave", func(ctx context.Context) error { a.stop(ctx); return nil })
	if failed == nil {
		a.parts.Logger.Info("drained", "agent", a.cfg.Name, "took", time.Since(began).Round(time.Millisecond))
	}
	return failed
}

// notice gives load balancers time to see that the agent is not ready. What has to be done after it gets half of the time at
// least.
func (a *Agent) notice(ctx context.Context) error {
	d := a.cfg.DrainNotice
	if end, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(end)/2)
	}
	a.goOn(ctx, d)
	return nil
}

// goOn serves for a while longer.
func (a *Agent) goOn(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.failed: // nobody is served anyway
	case <-ctx.Done():
	}
}

// dutiesMax bounds how long a drain waits for background duties. They heed their context at every chunk and request; one that hangs
// in a disk or a bucket all the same must not keep clients from their answers.
const dutiesMax = 5 * time.Second

// endDuties ends background duties. One that has not ended in time goes on by itself beside the rest of the drain, and what it still
// wants of this agent fails.
func (a *Agent) endDuties(ctx context.Context) error {
	if a.duties == nil {
		return nil
	}
	most := a.dutiesMax
	if end, ok := ctx.Deadline(); ok { // what has to be done after it has the rest
		most = min(most, time.Until(end)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	defer a.dutiesOver.Store(true)
	if err := a.duties.End(ctx); err != nil {
		a.parts.Logger.Warn("a step in the background is cut off; other agents do it again", "agent", a.cfg.Name, "error", err)
	}
	return nil
}

// handOverMax bounds how long a drain waits for the metastore to take note that others coordinate consumer groups. Where it
// does not, they find out when this agent's registration has lapsed.
const handOverMax = 5 * time.Second

func (a *Agent) handOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handOverMax)
	defer cancel()
	if err := a.groups.HandOver(ctx); err != nil {
		a.parts.Logger.Warn("consumer groups stay without a coordinator until this agent has left", "error", err)
	}
	return nil
}

// membersTime is how long an agent that has handed its groups over goes on as before. A member that asks it meanwhile is told to look for the
// coordinator, and finds it with its next request, here or elsewhere. One whose connection was closed instead would first try this agent again, in
// vain, and then wait for longer: clients pause between attempts, franz-go for 250 ms, then 500. It covers a request, the first pause, and one more request.
const membersTime = 500 * time.Millisecond

func (a *Agent) tellMembers(ctx context.Context) error {
	d := a.membersTime
	if end, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(end)/2)
	}
	a.goOn(ctx, d)
	return nil
}
