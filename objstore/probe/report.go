package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/firnlog/firn/objstore"
)

// ErrUnfit is wrapped by the error of a report in which something required has not passed.
var ErrUnfit = errors.New("bucket unfit")

// Verdict says how a check went.
type Verdict string

// The verdicts.
const (
	OK      Verdict = "ok"
	Wrong   Verdict = "wrong"       // it answered something else than it should
	Denied  Verdict = "denied"      // these credentials may not, or there is no such bucket
	Missing Verdict = "missing"     // the store does not know how
	Down    Verdict = "unavailable" // no answer, or one that means "later"
	Unknown Verdict = "unknown"     // could not be found out; never where it is required
	NotMade Verdict = "not made"
)

// Check is one question and its answer.
type Check struct {
	Name     string  `json:"name"`
	Required bool    `json:"required"`
	Verdict  Verdict `json:"verdict"`
	Detail   string  `json:"detail,omitempty"` // what was seen
	Mend     string  `json:"mend,omitempty"`   // what an operator can do about it, or what firn does without it
}

// failed: the check is required and has not passed.
func (c Check) failed() bool { return c.Required && c.Verdict != OK && c.Verdict != NotMade }

// Report is what a probe found.
type Report struct {
	Bucket   string        `json:"bucket"` // as it may be printed
	Took     time.Duration `json:"took_ns"`
	Checks   []Check       `json:"checks"`
	Warnings []string      `json:"warnings,omitempty"`
}

// Verdict returns how the named check went.
func (r Report) Verdict(name string) Verdict {
	for _, c := range r.Checks {
		if c.Name == name {
			return c.Verdict
		}
	}
	return NotMade
}

// Err is nil where all that is required has passed. Else it wraps ErrUnfit and names each check that failed, what was seen and
// the mend.
func (r Report) Err() error {
	var problems []error
	for _, c := range r.Checks {
		if c.failed() {
			problems = append(problems, fmt.Errorf("%w: %s: %s: %s: %s. %s", ErrUnfit, r.Bucket, c.Name, c.Verdict, c.Detail, c.Mend))
		}
	}
	return errors.Join(problems...)
}

// missing are the optional checks that have not passed.
func (r Report) missing() []string {
	var names []string
	for _, c := range r.Checks {
		if !c.Required && c.Verdict != OK {
			names = append(names, fmt.Sprintf("%s (%s)", c.Name, c.Verdict))
		}
	}
	return names
}

// Write prints the report for people.
func (r Report) Write(w io.Writer) error {
	outcome := "fit"
	if r.Err() != nil {
		outcome = "NOT fit"
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(out, "%s is %s for firn (%v)\n", r.Bucket, outcome, r.Took.Round(time.Millisecond))
	for _, c := range r.Checks {
		need := "optional"
		if c.Required {
			need = "required"
		}
		_, _ = fmt.Fprintf(out, "  %s\t%s\t%s\n", c.Name, need, c.Verdict)
		for _, line := range []string{c.Detail, c.Mend} {
			if line != "" {
				_, _ = fmt.Fprintf(out, "      %s\n", line)
			}
		}
	}
	for _, warning := range r.Warnings {
		_, _ = fmt.Fprintf(out, "  WARNING: %s\n", warning)
	}
	return out.Flush()
}

// Log writes the report as one line, and one more for each warning.
func (r Report) Log(logger *slog.Logger) {
	for _, warning := range r.Warnings {
		logger.Warn("bucket", "bucket", r.Bucket, "warning", warning)
	}
	missing := strings.Join(r.missing(), ", ")
	level := slog.LevelInfo
	if missing != "" {
		level = slog.LevelWarn
	} else {
		missing = "nothing"
	}
	logger.Log(context.Background(), level, "bucket probed", "bucket", r.Bucket, "took", r.Took.Round(time.Millisecond), "fit", r.Err() == nil, "without", missing)
}

// Fit returns the bucket as firn should use it after this report: where conditional puts are refused, its puts carry no
// condition.
func (r Report) Fit(b objstore.Bucket) objstore.Bucket {
	switch r.Verdict(conditionalPut) {
	case Denied, Missing:
		return unconditional{b}
	}
	return b
}
