package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/alecthomas/kingpin/v2"

	"usaged/client"
)

// benchSummary measures how fast the daemon answers the summary, or a meter.
type benchSummary struct {
	path     string // of what is read
	meter    string
	requests int
	days     int
	top      int
}

func addBenchSummary(group *kingpin.CmdClause, commands map[string]command) {
	b := &benchSummary{}
	cmd := group.Command("summary", "GET the summary, or a meter, again and again: the first request, warm ones, and those that answer 304.")
	cmd.Flag("meter", "This meter instead of the summary.").PlaceHolder("NAME").StringVar(&b.meter)
	cmd.Flag("requests", "Warm requests, and as many that answer 304.").Default("100").IntVar(&b.requests)
	cmd.Flag("days", "Days of the window.").Default("30").IntVar(&b.days)
	cmd.Flag("top", "Only so many users of each type, or keys; 0 is all of them.").Default("0").IntVar(&b.top)
	commands[cmd.FullCommand()] = b.run
}

// readReport is what bench summary found.
type readReport struct {
	Path        string  `json:"path"`
	Days        int     `json:"days"`
	Bytes       int     `json:"bytes"`
	FirstMillis float64 `json:"first_ms"`
	Warm        latency `json:"warm_ms"`
	NotModified latency `json:"not_modified_ms"`
}

func (b *benchSummary) run(ctx context.Context, s *session) error {
	if b.requests < 1 || b.days < 1 || b.top < 0 {
		return usagef("--requests and --days must be positive, --top must not be negative")
	}
	if b.path = client.SummaryPath; b.meter != "" {
		b.path = client.MeterPath(b.meter)
	}
	c, err := s.client(reading, uncompressed)
	if err != nil {
		return err
	}
	defer c.Close()
	report := &readReport{Path: b.path, Days: b.days}
	first, answer, err := b.get(ctx, c, "")
	if err != nil {
		return err
	}
	report.FirstMillis = float64(first.Microseconds()) / 1e3
	report.Bytes = len(answer.Body)
	if report.Warm, err = b.repeat(ctx, c, ""); err != nil {
		return err
	}
	etag := answer.Header.Get("ETag")
	if etag == "" {
		return fmt.Errorf("the daemon's answer has no ETag")
	}
	if report.NotModified, err = b.repeat(ctx, c, etag); err != nil {
		return err
	}
	return report.print(s)
}

// uncompressed keeps compression, which net/http asks for by itself, out of the measurement.
func uncompressed(cfg *client.Config) {
	cfg.HTTPClient = &http.Client{Transport: &http.Transport{DisableCompression: true}}
}

// get reads the whole answer once.
func (b *benchSummary) get(ctx context.Context, c *client.Client, etag string) (time.Duration, *client.Answer, error) {
	query := client.Query{Days: b.days, Top: b.top}.Values()
	start := time.Now()
	answer, err := c.Get(ctx, b.path, query, etag)
	return time.Since(start), answer, err
}

func (b *benchSummary) repeat(ctx context.Context, c *client.Client, etag string) (latency, error) {
	h := hdrhistogram.New(1, latencyMaximum, latencyDigits)
	for range b.requests {
		took, answer, err := b.get(ctx, c, etag)
		if err != nil {
			return latency{}, err
		}
		if etag != "" && answer.Status != http.StatusNotModified {
			return latency{}, fmt.Errorf("the daemon answered %d where 304 was due: do events still come in?", answer.Status)
		}
		if err := h.RecordValue(min(max(took.Microseconds(), 1), latencyMaximum)); err != nil {
			return latency{}, err
		}
	}
	return latencyOf(h), nil
}

func (r *readReport) print(s *session) error {
	if s.json() {
		return printJSON(s, r)
	}
	t := &table{}
	t.add("first request", fmt.Sprintf("%.2f ms, %s bytes", r.FirstMillis, thousands(uint64(r.Bytes))))
	t.add("warm, ms", r.Warm.String())
	t.add("304, ms", r.NotModified.String())
	return t.write(s.stdout)
}
