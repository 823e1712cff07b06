package health_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"

	"usaged/rules/health"
)

// database is a Prometheus as the embedded one is.
type database struct {
	engine *promql.Engine
	db     *tsdb.DB
	at     time.Time
}

func (d *database) String() string { return "a database" }

func (d *database) Query(ctx context.Context, expr string, at time.Time) (model.Vector, error) {
	if at.IsZero() {
		at = d.at
	}
	q, err := d.engine.NewInstantQuery(ctx, d.db, nil, expr, at)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	vector, err := q.Exec(ctx).Vector()
	samples := make(model.Vector, 0, len(vector))
	for _, s := range vector {
		metric := make(model.Metric, s.Metric.Len())
		s.Metric.Range(func(l labels.Label) { metric[model.LabelName(l.Name)] = model.LabelValue(l.Value) })
		samples = append(samples, &model.Sample{Metric: metric, Value: model.SampleValue(s.F)})
	}
	return samples, err
}

// evaluate appends what the rules record at a time about so many types.
func (d *database) evaluate(b *testing.B, types int, at time.Time) {
	b.Helper()
	app := d.db.Appender(b.Context())
	add := func(v float64, name string, label ...string) {
		if _, err := app.Append(0, labels.FromStrings(append(label, "__name__", name)...), at.UnixMilli(), v); err != nil {
			b.Fatal(err)
		}
	}
	for i := range types {
		t := fmt.Sprintf("type-%03d", i)
		for _, name := range []string{"scope", "type_score", "type_mode", "since"} {
			add(1, "usage:health:"+name, "event_type", t)
		}
		for _, c := range []string{"activity", "failures", "lag"} {
			add(0.5, "usage:health:component", "event_type", t, "component", c)
			add(0.5, "usage:health:observed", "event_type", t, "component", c)
		}
		for _, w := range []string{"15m", "1h", "6h", "1d"} {
			for _, name := range []string{"observed", "expected", "lower", "upper"} {
				add(100, "usage:activity:"+name, "event_type", t, "window", w)
			}
		}
		add(0.5, "usage:activity:ratio", "event_type", t, "window", "15m")
		add(1, "usage:failures:increase15m", "event_type", t)
		add(9, "usage:outcomes:increase15m", "event_type", t)
	}
	add(float64(at.UnixMilli())/1000, "usage:health:evaluated")
	if err := app.Commit(); err != nil {
		b.Fatal(err)
	}
	d.at = at
}

// BenchmarkReport reads the report of 200 event types from a TSDB: after an evaluation of the rules, and between two.
func BenchmarkReport(b *testing.B) {
	db, err := tsdb.Open(b.TempDir(), slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	d := &database{db: db, engine: promql.NewEngine(promql.EngineOpts{
		Logger: slog.New(slog.DiscardHandler), MaxSamples: 1e7, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{}),
	})}
	b.Cleanup(func() { d.engine.Close() })
	for i := range 60 { // chunks as long as those of an hour
		d.evaluate(b, 200, evaluated.Add(time.Duration(i)*time.Minute))
	}
	b.Run("evaluated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r, err := health.NewReader(d).Report(b.Context()); err != nil || len(r.Types) != 200 {
				b.Fatal(err)
			}
		}
	})
	b.Run("between", func(b *testing.B) {
		b.ReportAllocs()
		r := health.NewReader(d)
		for b.Loop() {
			if _, err := r.Report(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
