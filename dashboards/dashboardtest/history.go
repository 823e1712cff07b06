package dashboardtest

import (
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"usaged/rules/price"
)

// Event is what counts of an event.
type Event struct {
	Type     string            `json:"event_type"`
	User     string            `json:"user_id"`
	Source   string            `json:"source"`
	Created  time.Time         `json:"created_at"`
	Metadata map[string]string `json:"metadata"`
}

// History is the past of one replica that took its events as they happened.
type History struct {
	Events   []Event // in the order of their times; those before From are in the totals that it begins with
	From, To time.Time
	Updates  []time.Time   // when it was restarted as a new version, in order
	Prices   []price.Price // of its table
	Instance string        // the label of the replica
	Rules    []string      // the contents of rule files in the order in which they read each other
}

// The distances of samples: of scrapes, and of evaluations.
const (
	scraped   = 2 * time.Minute
	evaluated = 5 * time.Minute
	// minutely is the group of the modes, which get worse when a score has been low for some minutes.
	minutely = "usage_health"
)

// Write writes the history as a block into the directory of a TSDB, with all that the rules record and the alerts that fire.
func (h History) Write(tb testing.TB, dir string) {
	tb.Helper()
	work := tb.TempDir()
	opts := tsdb.DefaultOptions()
	opts.WALSegmentSize = -1 // no log: what is not finished is made again
	opts.MinBlockDuration = 4 * h.To.Sub(h.From).Milliseconds()
	opts.MaxBlockDuration = opts.MinBlockDuration
	opts.RetentionDuration = 0
	db, err := tsdb.Open(work, slog.New(slog.DiscardHandler), nil, opts, tsdb.NewDBStats())
	if err != nil {
		tb.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	}()
	h.count(tb, db)
	engine := promql.NewEngine(promql.EngineOpts{
		Logger: slog.New(slog.DiscardHandler), MaxSamples: math.MaxInt, Timeout: time.Hour, Parser: parser.NewParser(parser.Options{}),
	})
	defer func() {
		if err := engine.Close(); err != nil {
			tb.Error(err)
		}
	}()
	for _, file := range h.Rules {
		for _, group := range groups(tb, file) {
			for _, rule := range group.Rules {
				every := max(evaluated, time.Duration(group.Interval))
				if group.Name == minutely {
					every = time.Duration(group.Interval)
				}
				h.evaluate(tb, db, engine, rule, every)
			}
		}
	}
	if err := db.CompactHead(tsdb.NewRangeHead(db.Head(), h.From.UnixMilli(), h.To.UnixMilli())); err != nil {
		tb.Fatal(err)
	}
	copyBlock(tb, work, dir)
}

// copyBlock copies the one block of a TSDB.
func copyBlock(tb testing.TB, from, to string) {
	tb.Helper()
	blocks, err := filepath.Glob(filepath.Join(from, "01*"))
	if err != nil || len(blocks) != 1 {
		tb.Fatalf("blocks %v, %v; want one", blocks, err)
	}
	if err := os.CopyFS(filepath.Join(to, filepath.Base(blocks[0])), os.DirFS(blocks[0])); err != nil {
		tb.Fatal(err)
	}
}

func groups(tb testing.TB, text string) []rulefmt.RuleGroup {
	tb.Helper()
	file, errs := rulefmt.Parse([]byte(text), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		tb.Fatal(err)
	}
	return file.Groups
}

// evaluate records what a rule makes of the whole history in one go, to its very end, with the markers that Prometheus writes where
// a series ends.
func (h History) evaluate(tb testing.TB, db *tsdb.DB, engine *promql.Engine, rule rulefmt.Rule, every time.Duration) {
	tb.Helper()
	q, err := engine.NewRangeQuery(context.Background(), db, nil, rule.Expr, h.To.Add(-h.To.Sub(h.From).Truncate(every)), h.To, every)
	if err != nil {
		tb.Fatalf("%s: %v", rule.Expr, err)
	}
	defer q.Close()
	result := q.Exec(context.Background())
	matrix, err := result.Matrix()
	if err != nil {
		tb.Fatalf("%s: %v", rule.Expr, err)
	}
	app := db.AppenderV2(context.Background())
	for _, s := range matrix {
		b := labels.NewBuilder(s.Metric).Set(model.MetricNameLabel, rule.Record)
		if rule.Alert != "" {
			b = labels.NewBuilder(s.Metric).Set(model.MetricNameLabel, "ALERTS").Set("alertname", rule.Alert).Set("alertstate", "firing")
		}
		for name, v := range rule.Labels {
			b.Set(name, v)
		}
		add := adder(tb, app, b.Labels())
		for i, p := range s.Floats {
			if rule.Alert != "" {
				p.F = 1
			}
			add(p.T, p.F)
			next := p.T + every.Milliseconds()
			if next <= h.To.UnixMilli() && (i+1 == len(s.Floats) || s.Floats[i+1].T > next) {
				add(next, math.Float64frombits(value.StaleNaN))
			}
		}
	}
	if err := app.Commit(); err != nil {
		tb.Fatal(err)
	}
}

// adder appends samples to one series.
func adder(tb testing.TB, app storage.AppenderV2, ls labels.Labels) func(at int64, v float64) {
	ref := storage.SeriesRef(0)
	return func(at int64, v float64) {
		tb.Helper()
		var err error
		if ref, err = app.Append(ref, ls, 0, at, v, nil, nil, storage.AOptions{}); err != nil {
			tb.Fatalf("%s at %d: %v", ls, at, err)
		}
	}
}

// key names a series: the metric and its labels, as name{label=value,…} without quotes.
func key(name string, pairs ...string) string { return name + "\xff" + strings.Join(pairs, "\xff") }

// add counts an event in all families, as the daemon does.
func (e Event) add(totals map[string]float64) {
	totals[key("usage_events_total", "event_type", e.Type)]++
	totals[key("usage_late_events_total", "event_type", e.Type)] += 0
	totals[key("usage_source_events_total", "source", e.Source)]++
	for _, outcome := range []string{"success", "failure"} {
		n := 0.0
		if e.Metadata["outcome"] == outcome {
			n = 1
		}
		totals[key("usage_event_outcomes_total", "event_type", e.Type, "outcome", outcome)] += n
	}
	for _, kind := range []string{"prompt", "completion"} {
		if n, err := strconv.ParseFloat(e.Metadata[kind+"_tokens"], 64); err == nil {
			totals[key("usage_llm_tokens_total", "model", e.Metadata["model"], "kind", kind)] += n
		}
	}
	if list := e.Metadata["policy_filters"]; list != "" {
		for policy := range strings.SplitSeq(list, ",") {
			totals[key("usage_policy_hits_total", "policy", policy)]++
		}
	}
	if n, err := strconv.ParseFloat(e.Metadata["rows"], 64); err == nil && e.Type == "sql_execution" {
		totals[key("usage_sql_rows_total")] += n
	}
}
