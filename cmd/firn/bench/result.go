package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Result is the outcome of a run. As JSON it is one line.
type Result struct {
	Test        string  `json:"test"`
	Commit      string  `json:"commit"`
	Clients     string  `json:"clients"`
	Seed        uint64  `json:"seed"`
	Topic       string  `json:"topic"`
	Partitions  int     `json:"partitions"`
	Loop        string  `json:"loop"` // "open" or "closed"
	Rate        string  `json:"rate"` // "" in a closed loop
	InFlight    int     `json:"in_flight_bytes"`
	RecordBytes int     `json:"record_bytes"`
	Keys        int     `json:"keys"`
	Payload     string  `json:"payload"`
	Producers   int     `json:"producers"`
	LingerMS    float64 `json:"linger_ms"`
	BatchBytes  int     `json:"batch_bytes"`
	Codec       string  `json:"codec"`
	Acks        string  `json:"acks"`
	WarmupS     float64 `json:"warmup_s"`
	Phases      []Phase `json:"phases"`
	Kept        bool    `json:"kept"` // the topic was not deleted
	// Contention is what the contend mode is for.
	Contention *Contention `json:"contention,omitempty"`
	// Commits is what the commit mode is for.
	Commits *Commits `json:"commits,omitempty"`
}

// Phase is one measurement. Seconds, Records and Bytes count what was acknowledged (read, for replay) after the warmup.
type Phase struct {
	Name       string  `json:"name"`
	Seconds    float64 `json:"seconds"`
	Records    int64   `json:"records"`
	Bytes      int64   `json:"bytes"`
	RecordsPS  float64 `json:"records_per_s"`
	MBPS       float64 `json:"mb_per_s"`
	Sent       int64   `json:"sent"`    // whole phase, warmup included
	Errors     int64   `json:"errors"`  // sent, not acknowledged
	Missing    int64   `json:"missing"` // acknowledged or expected, not read
	FirstError string  `json:"first_error"`
	// Ack and E2E count from the intended time of records meant for after the warmup; Lag is how late they were sent.
	Ack Latency `json:"ack_ms"`
	E2E Latency `json:"e2e_ms"`
	Lag Latency `json:"lag_ms"`
	// CPUSeconds is what this process used over the whole phase, warmup included; -1 where unknown.
	CPUSeconds float64 `json:"cpu_s"`
	// ReplayMBPS is what the replayers beside the load read.
	ReplayMBPS float64 `json:"replay_mb_per_s,omitempty"`
}

// throughput fills in what follows from the counts.
func (p *Phase) throughput() {
	if p.Seconds > 0 {
		p.RecordsPS = float64(p.Records) / p.Seconds
		p.MBPS = float64(p.Bytes) / 1e6 / p.Seconds
	}
}

// Problem says in a few words what makes the numbers unusable, or "".
func (r Result) Problem() string {
	for _, p := range r.Phases {
		switch {
		case p.Errors > 0:
			return fmt.Sprintf("%s: %d of %d records were not acknowledged, first: %s", p.Name, p.Errors, p.Sent, p.FirstError)
		case p.Missing > 0:
			return fmt.Sprintf("%s: %d records were not read", p.Name, p.Missing)
		case p.Records == 0:
			return fmt.Sprintf("%s: nothing was measured", p.Name)
		}
	}
	return ""
}

// WriteText writes the result for people.
func (r Result) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	load := fmt.Sprintf("open loop, %s", r.Rate)
	if r.Loop == "closed" {
		load = fmt.Sprintf("closed loop, %d bytes in flight (latencies are those of a full pipe)", r.InFlight)
	}
	_, _ = fmt.Fprintf(w, "topic %s, %d partitions, %d producers, %d-byte %s values, acks %s, codec %s\n%s\n\n",
		r.Topic, r.Partitions, r.Producers, r.RecordBytes, r.Payload, r.Acks, r.Codec, load)
	_, _ = fmt.Fprintln(t, "phase\trecords/s\tMB/s\terrors\tms\tp50\tp90\tp99\tp99.9\tmax\tcpu s\t")
	for _, p := range r.Phases {
		lead := fmt.Sprintf("%s\t%.0f\t%.2f\t%d\t", p.Name, p.RecordsPS, p.MBPS, p.Errors+p.Missing)
		cpu := fmt.Sprintf("%.2f\t", p.CPUSeconds)
		for _, l := range []struct {
			name string
			Latency
		}{{"ack", p.Ack}, {"e2e", p.E2E}, {"lag", p.Lag}} {
			if l.Count == 0 || (l.name == "lag" && r.Loop == "closed") {
				continue // a closed loop sends when it can, so it is never late
			}
			_, _ = fmt.Fprintf(t, "%s%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%s\n", lead, l.name, l.P50, l.P90, l.P99, l.P999, l.Max, cpu)
			lead, cpu = "\t\t\t\t", "\t"
		}
		if lead[0] != '\t' { // no latency at all: replay
			_, _ = fmt.Fprintf(t, "%s\t\t\t\t\t\t%s\n", lead, cpu)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if c := r.Contention; c != nil {
		_, _ = fmt.Fprintf(w, "\nreplayed ÷ quiet, median of %d pairs: ack p50 %.2f, p99 %.2f; e2e p50 %.2f, p99 %.2f; replayed at %.1f MB/s\n",
			c.Pairs, c.AckP50, c.AckP99, c.E2EP50, c.E2EP99, c.ReplayMBPS)
	}
	if c := r.Commits; c != nil {
		_, _ = fmt.Fprintf(w, "\ncommitting ÷ quiet, median of %d pairs: ack p50 %.2f, p99 %.2f; %.0f commits/s of %d groups, p50 %.2f ms, p99 %.2f ms, max %.2f ms\n",
			c.Pairs, c.AckP50, c.AckP99, c.PerSecond, c.Groups, c.Latency.P50, c.Latency.P99, c.Latency.Max)
	}
	return nil
}
