package verify

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/firnlog/firn/localstack/check"
)

// Summary is the outcome of a run. As JSON it is one line, and every field is present.
type Summary struct {
	Test        string    `json:"test"`
	Seed        uint64    `json:"seed"`
	Run         string    `json:"run"` // hexadecimal; part of the topics' names
	Commit      string    `json:"commit"`
	Clients     string    `json:"clients"`
	DurationS   float64   `json:"duration_s"`
	Topics      int       `json:"topics"`
	Partitions  int       `json:"partitions"` // of each topic
	Producers   int       `json:"producers"`
	Consumers   int       `json:"consumers"`
	Idempotent  bool      `json:"idempotent"`
	Codec       string    `json:"codec"`
	Plant       string    `json:"plant"`
	Ops         check.Ops `json:"ops"`
	RecordsRead int       `json:"records_read"` // every showing
	OffsetsRead int       `json:"offsets_read"` // distinct
	check.Counts
	Stuck     int             `json:"stuck"` // read-backs that did not reach the end in time
	Sometimes Sometimes       `json:"sometimes"`
	Findings  []check.Finding `json:"findings"`
	Kept      []string        `json:"kept"` // topics not deleted
	Verdict   string          `json:"verdict"`
	OK        bool            `json:"ok"`
}

// Sometimes counts how often interesting states were reached: a run that reached none proves less than it seems.
type Sometimes struct {
	BrokersFetched  int `json:"brokers_fetched"`  // distinct broker ids and addresses that served records
	BrokerSwitches  int `json:"broker_switches"`  // a consumer's next fetch went elsewhere
	Reread          int `json:"reread_elsewhere"` // an offset shown again by another broker
	FetchErrors     int `json:"fetch_errors"`     // requests that failed, and partitions answered with a retriable error
	NotServed       int `json:"not_served"`       // partitions that a broker does not lead or know
	ProduceRetries  int `json:"produce_retries"`  // records sent once more by plain producers
	ConnectionsLost int `json:"connections_lost"` // connections of producers and consumers closed under way
	EndsListed      int `json:"ends_listed"`      // partitions whose end was listed and compared
	TailReads       int `json:"tail_reads"`       // records shown while producing went on
}

// WriteText writes the summary for people.
func (s Summary) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, format string, args ...any) {
		_, _ = fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("run", "%s, seed %d, %.1f s", s.Run, s.Seed, s.DurationS)
	row("sent", "%d (acknowledged %d, refused %d, unknown %d, retried %d)", s.Ops.Sent, s.Ops.Acked, s.Ops.Failed, s.Ops.Unknown, s.Ops.Retried)
	row("read", "%d offsets, %d showings, %d of them while producing", s.OffsetsRead, s.RecordsRead, s.Sometimes.TailReads)
	row("roaming", "%d brokers, %d switches, %d offsets shown by a second broker, %d connections lost",
		s.Sometimes.BrokersFetched, s.Sometimes.BrokerSwitches, s.Sometimes.Reread, s.Sometimes.ConnectionsLost)
	for k := check.Lost; k <= check.Unseen; k++ {
		row(k.String(), "%d", s.Of(k))
	}
	row("stuck", "%d", s.Stuck)
	if len(s.Kept) > 0 {
		row("topics kept", "%v", s.Kept)
	}
	for _, f := range s.Findings {
		row("finding", "%s", f)
	}
	verdict := "ok"
	if !s.OK {
		verdict = "FAILED: " + s.Verdict
	}
	row("verdict", "%s", verdict)
	return t.Flush()
}

// merge adds the counts of another part of the run.
func (s *Sometimes) merge(o Sometimes) {
	s.BrokerSwitches += o.BrokerSwitches
	s.FetchErrors += o.FetchErrors
	s.NotServed += o.NotServed
	s.ProduceRetries += o.ProduceRetries
	s.ConnectionsLost += o.ConnectionsLost
	s.EndsListed += o.EndsListed
	s.TailReads += o.TailReads
}

// nonNil keeps empty lists as [] in JSON.
func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
