package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"usaged/aggregator/event"
	"usaged/client"
)

const (
	defaultBatchConnections  = 4
	defaultSingleConnections = 128
)

// benchPost drives the daemon with events and reports how it fared.
type benchPost struct {
	batch       int
	connections int
	duration    time.Duration
	events      int64
	rate        float64
	users       int
	types       int
	days        int
	ids         bool
	wait        bool
}

func addBench(app *kingpin.Application, s *session, commands map[string]command) {
	group := app.Command("bench", "Measure a running daemon. It keeps the events that it is sent: use one with a data directory of its own. "+
		"Plain `bench` is `bench post`, whose --help has the flags.")
	b := &benchPost{}
	post := group.Command("post", "POST made-up events and measure throughput, latency and the daemon's CPU "+
		"time.").Default()
	post.Flag("batch", "Events in a request; 1 sends single events as JSON, more sends NDJSON.").Default("1000").IntVar(&b.batch)
	post.Flag("connections", "Connections, each with one request at a time; 0 means 4 for batches and 128 for single events.").
		Default("0").IntVar(&b.connections)
	post.Flag("duration", "How long to send.").Default("10s").DurationVar(&b.duration)
	post.Flag("events", "Stop after so many events, rounded up to whole batches; 0 leaves it to --duration.").Default("0").Int64Var(&b.events)
	post.Flag("rate", "Events a second, evenly spaced; 0 is as many as it takes. With a rate, latency counts from the time at which a "+
		"request was due and not from when a busy connection got to send it.").Default("0").Float64Var(&b.rate)
	post.Flag("users", "Number of user ids to choose from at random.").Default("10000").IntVar(&b.users)
	post.Flag("types", "Number of event types; the first five are like real ones.").Default("5").IntVar(&b.types)
	post.Flag("days", "Spread created_at over today and the days before it; 1 leaves created_at to the daemon.").Default("1").IntVar(&b.days)
	post.Flag("ids", "Give every event an id, which the daemon checks for duplicates.").BoolVar(&b.ids)
	post.Flag("wait", "Wait until the ledger shows nothing pending, and count the CPU time until then too.").BoolVar(&b.wait)
	commands[post.FullCommand()] = b.run
	addBenchSummary(group, commands)
	addBenchTail(group, commands)
}

func (b *benchPost) check() error {
	switch {
	case b.batch < 1 || b.batch > event.MaxBatchEvents:
		return usagef("--batch must be 1 to %d", event.MaxBatchEvents)
	case b.connections < 0 || b.connections > 10_000:
		return usagef("--connections must be 0 to 10000")
	case b.users < 1 || b.users > 10_000_000:
		return usagef("--users must be 1 to 10000000")
	case b.types < 1 || b.types > 10_000:
		return usagef("--types must be 1 to 10000")
	case b.days < 1 || b.days > 3650:
		return usagef("--days must be 1 to 3650")
	case b.rate < 0 || b.events < 0 || b.duration <= 0:
		return usagef("--rate and --events must not be negative, --duration must be positive")
	}
	if b.connections == 0 && b.batch == 1 {
		b.connections = defaultSingleConnections
	}
	if b.connections == 0 {
		b.connections = defaultBatchConnections
	}
	return nil
}

func (b *benchPost) run(ctx context.Context, s *session) error {
	if err := b.check(); err != nil {
		return err
	}
	admin, err := s.client(reading)
	if err != nil {
		return err
	}
	defer admin.Close()
	token, err := s.token(posting)
	if err != nil {
		return err
	}
	target, err := url.Parse(admin.URL())
	if err != nil {
		return err
	}
	l := &load{
		dial:        dialer{target: target},
		connections: b.connections,
		duration:    b.duration,
		events:      b.events,
		rate:        b.rate,
		shape: shape{
			target: target,
			token:  token,
			batch:  b.batch,
			users:  b.users,
			types:  b.types,
			days:   b.days,
			ids:    b.ids,
			run:    hex.EncodeToString(randomBytes(6)),
			today:  s.now().UTC(),
		},
	}
	report, err := b.measure(ctx, l, admin)
	if err != nil {
		return err
	}
	return errors.Join(report.print(s), report.verdict())
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// measure runs the load between two looks at the daemon's own figures.
func (b *benchPost) measure(ctx context.Context, l *load, admin *client.Client) (*postReport, error) {
	before := readVitals(ctx, admin)
	watch := watchMemory(ctx, admin)
	driver := driverCPU()
	total, elapsed, err := l.run(ctx)
	driver = driverCPU() - driver
	peak := watch.stop()
	if err != nil {
		return nil, err
	}
	sent := readVitals(ctx, admin)
	report := newPostReport(b, total, elapsed)
	report.DriverCPU = perMillion(driver.Seconds(), total.events)
	report.Daemon = &daemonReport{RSSBytes: sent.rssBytes, RSSPeakBytes: max(peak, sent.rssBytes)}
	if !before.known || !sent.known {
		report.Daemon = nil
		return report, nil
	}
	report.Daemon.CPU = perMillion(sent.cpuSeconds-before.cpuSeconds, total.events)
	if !b.wait {
		return report, nil
	}
	waited, err := waitSettled(ctx, admin)
	if err != nil {
		return nil, fmt.Errorf("wait until the daemon has applied everything: %w", err)
	}
	settled := readVitals(ctx, admin)
	report.Daemon.SettleSeconds = waited.Seconds()
	report.Daemon.AppliedPerSecond = float64(total.events) / (elapsed + waited).Seconds()
	report.Daemon.SettledCPU = perMillion(settled.cpuSeconds-before.cpuSeconds, total.events)
	report.Daemon.RSSPeakBytes = max(report.Daemon.RSSPeakBytes, settled.rssBytes)
	return report, nil
}

func perMillion(seconds float64, events uint64) float64 {
	if events == 0 {
		return 0
	}
	return seconds * 1e6 / float64(events)
}

// postReport is what bench found.
type postReport struct {
	Batch             int               `json:"batch"`
	Connections       int               `json:"connections"`
	Rate              float64           `json:"rate_events_per_second,omitzero"`
	IDs               bool              `json:"ids"`
	Users             int               `json:"users"`
	Types             int               `json:"types"`
	Days              int               `json:"days"`
	Seconds           float64           `json:"seconds"`
	Requests          uint64            `json:"requests"`
	Events            uint64            `json:"events"`
	RequestsPerSecond float64           `json:"requests_per_second"`
	EventsPerSecond   float64           `json:"events_per_second"`
	Latency           latency           `json:"latency_ms"`
	Errors            map[string]uint64 `json:"errors"`
	ErrorSample       string            `json:"error_sample,omitempty"`
	DriverCPU         float64           `json:"driver_cpu_seconds_per_million"`
	Daemon            *daemonReport     `json:"daemon,omitempty"`
}

// daemonReport is what the daemon's own /metrics say.
type daemonReport struct {
	CPU              float64 `json:"cpu_seconds_per_million"`
	SettledCPU       float64 `json:"settled_cpu_seconds_per_million,omitzero"`
	SettleSeconds    float64 `json:"settle_seconds,omitzero"`
	AppliedPerSecond float64 `json:"applied_events_per_second,omitzero"`
	RSSBytes         float64 `json:"resident_memory_bytes"`
	RSSPeakBytes     float64 `json:"resident_memory_peak_bytes"`
}

func newPostReport(b *benchPost, total *tally, elapsed time.Duration) *postReport {
	return &postReport{
		Batch:             b.batch,
		Connections:       b.connections,
		Rate:              b.rate,
		IDs:               b.ids,
		Users:             b.users,
		Types:             b.types,
		Days:              b.days,
		Seconds:           elapsed.Seconds(),
		Requests:          total.requests,
		Events:            total.events,
		RequestsPerSecond: float64(total.requests) / elapsed.Seconds(),
		EventsPerSecond:   float64(total.events) / elapsed.Seconds(),
		Latency:           latencyOf(total.latency),
		Errors:            total.errors,
		ErrorSample:       total.sample,
	}
}

// verdict fails a run in which requests failed.
func (r *postReport) verdict() error {
	var failed uint64
	for _, n := range r.Errors {
		failed += n
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%s of the requests failed, such as: %s", thousands(failed), r.ErrorSample)
}

func (r *postReport) print(s *session) error {
	if s.json() {
		return printJSON(s, r)
	}
	t := &table{}
	t.add("requests", fmt.Sprintf("%s in %.1f s over %d connections", thousands(r.Requests), r.Seconds, r.Connections))
	t.add("requests/s", thousands(uint64(r.RequestsPerSecond)))
	t.add("events/s", thousands(uint64(r.EventsPerSecond)))
	t.add("latency ms", r.Latency.String())
	for _, name := range slices.Sorted(mapKeys(r.Errors)) {
		t.add("errors, "+name, thousands(r.Errors[name]))
	}
	t.add("driver", fmt.Sprintf("%.2f CPU-s per million events", r.DriverCPU))
	if d := r.Daemon; d == nil {
		t.add("daemon", "unknown: /metrics does not tell")
	} else {
		t.add("daemon", fmt.Sprintf("%.2f CPU-s per million events while sending", d.CPU))
		if d.SettledCPU > 0 {
			t.add("", fmt.Sprintf("%.2f CPU-s per million events until all was applied, %.1f s later (%s events/s)",
				d.SettledCPU, d.SettleSeconds, thousands(uint64(d.AppliedPerSecond))))
		}
		t.add("", fmt.Sprintf("%.0f MB resident, at most %.0f MB", d.RSSBytes/1e6, d.RSSPeakBytes/1e6))
	}
	return t.write(s.stdout)
}

func printJSON(s *session, value any) error {
	data, err := json.Marshal(value, jsontext.WithIndent("  "), json.Deterministic(true))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "%s\n", event.VisibleJSON(data))
	return err
}
