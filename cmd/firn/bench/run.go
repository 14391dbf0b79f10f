package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/cmd/firn/client"
)

// Run measures and returns what was measured, also where an error ended it early. A topic that Run made is deleted at
// the end unless Keep says otherwise.
func Run(ctx context.Context, cfg Config) (result Result, err error) {
	if err := cfg.Validate(); err != nil {
		return Result{}, err
	}
	brokers, err := client.Brokers(cfg.Brokers)
	if err != nil {
		return Result{}, err
	}
	admin, err := kgo.NewClient(client.Options(brokers, cfg.Security...)...)
	if err != nil {
		return Result{}, fmt.Errorf("open a client: %w", err)
	}
	defer admin.Close()
	adm := kadm.NewClient(admin)
	result = Result{
		Test: "bench", Commit: cfg.Version, Clients: "franz-go", Seed: cfg.Seed, Topic: cfg.Topic, Partitions: cfg.Partitions,
		Loop: "open", Rate: cfg.Rate.String(), InFlight: cfg.InFlightBytes, RecordBytes: cfg.RecordBytes, Keys: cfg.Keys,
		Payload: cfg.Payload, Producers: cfg.Producers, LingerMS: float64(cfg.Linger) / float64(time.Millisecond),
		BatchBytes: cfg.BatchBytes, Codec: cfg.Codec, Acks: cfg.Acks, WarmupS: cfg.Warmup.Seconds(), Phases: []Phase{}, Kept: true,
	}
	if cfg.Max {
		result.Loop, result.Rate = "closed", ""
	}
	run := rand.Uint64()
	if cfg.Topic == "" {
		result.Topic = fmt.Sprintf("firn-bench-%016x", run)
		asked, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		topics := client.Topics{
			Names: []string{result.Topic}, Partitions: int32(cfg.Partitions), ReplicationFactor: int16(cfg.ReplicationFactor), Configs: cfg.Configs,
		}
		if err := topics.Create(asked, adm); err != nil {
			return result, err
		}
		if !cfg.Keep {
			defer func() {
				cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
				defer cancel()
				answer, deleteErr := adm.DeleteTopic(cleanup, result.Topic)
				if deleteErr == nil {
					deleteErr = answer.Err
				}
				if deleteErr != nil {
					cfg.logger().Warn("delete the topic of the run", "topic", result.Topic, "error", deleteErr)
				}
				result.Kept = deleteErr != nil
			}()
		}
	} else {
		details, err := adm.ListTopics(ctx, cfg.Topic)
		if err != nil {
			return result, fmt.Errorf("look up topic %q: %w", cfg.Topic, err)
		}
		if err := details[cfg.Topic].Err; err != nil {
			return result, client.TopicError("look up", cfg.Topic, err, "")
		}
		result.Partitions = len(details[cfg.Topic].Partitions)
	}
	err = phases(ctx, cfg, brokers, adm, run, &result)
	return result, err
}

// phases runs what the mode asks for and appends to result.
func phases(ctx context.Context, cfg Config, brokers []string, adm *kadm.Client, run uint64, result *Result) error {
	l := newLoad(cfg, result.Topic, newPayload(cfg.Payload, run, cfg.RecordBytes, cfg.Seed))
	if cfg.runs("contend") {
		return contend(ctx, cfg, l, brokers, adm, result)
	}
	if cfg.runs("commit") {
		return committing(ctx, cfg, l, brokers, adm, result)
	}
	if cfg.runs("produce") {
		cfg.logger().Info("produce", "topic", result.Topic, "seconds", l.end().Seconds())
		p, err := l.alone(ctx, "produce")
		result.Phases = append(result.Phases, p)
		if err != nil {
			return err
		}
	}
	if cfg.runs("e2e") {
		cfg.logger().Info("e2e", "topic", result.Topic, "seconds", l.end().Seconds())
		p, err := endToEnd(ctx, l, brokers, adm)
		result.Phases = append(result.Phases, p)
		if err != nil {
			return err
		}
	}
	if !cfg.runs("replay") {
		return nil
	}
	if cfg.Mode == "replay" && cfg.Topic == "" {
		// Nothing is there to read yet; what filling costs is not part of the result.
		cfg.logger().Info("fill", "topic", result.Topic, "seconds", l.end().Seconds())
		p, err := l.alone(ctx, "fill")
		if err != nil {
			return err
		}
		if p.Errors > 0 {
			return fmt.Errorf("fill topic %q: %d records were not acknowledged, first: %s", result.Topic, p.Errors, p.FirstError)
		}
	}
	cfg.logger().Info("replay", "topic", result.Topic)
	p, err := replay(ctx, cfg, brokers, adm, result.Topic)
	result.Phases = append(result.Phases, p)
	return err
}

// alone runs the load with nobody reading.
func (l *load) alone(ctx context.Context, name string) (Phase, error) {
	clients, closeAll, err := l.open(ctx)
	if err != nil {
		return Phase{Name: name}, err
	}
	defer closeAll()
	l.start = time.Now()
	return l.run(ctx, name, clients)
}

// endToEnd produces while a consumer reads, then waits for the last records.
func endToEnd(ctx context.Context, l *load, brokers []string, adm *kadm.Client) (Phase, error) {
	// A run id of its own: records of an earlier phase have other clocks.
	l.payload.run++
	a, err := openArrivals(ctx, l, adm, brokers)
	if err != nil {
		return Phase{Name: "e2e"}, err
	}
	defer a.client.Close()
	clients, closeAll, err := l.open(ctx)
	if err != nil {
		return Phase{Name: "e2e"}, err
	}
	defer closeAll()
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	expected := make(chan int64, 1)
	l.start = time.Now()
	go a.read(reading, expected)
	p, err := l.run(ctx, "e2e", clients)
	if err != nil {
		cancel()
		<-a.finished
		return p, err
	}
	expected <- p.Sent - p.Errors
	timer := time.AfterFunc(flushTimeout, cancel)
	defer timer.Stop()
	<-a.finished
	p.E2E = latencyOf(a.latency)
	p.Missing = max(0, p.Sent-p.Errors-a.records)
	if a.foreign != nil && p.Missing > 0 {
		p.FirstError = a.foreign.Error()
	}
	return p, nil
}
