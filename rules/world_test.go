package rules_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"usaged/rules"
)

// world is a database in memory over which the shipped rules are evaluated, a stretch of time at once: no rule reads what
// comes behind it.
type world struct {
	t      testing.TB
	engine *promql.Engine
	series map[string][]*column // by metric name
	index  map[string]*column   // by all labels
}

// column is a series. It implements storage.Series.
type column struct {
	labels labels.Labels
	points []sample
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, series: map[string][]*column{}, index: map[string]*column{}}
	w.engine = promql.NewEngine(promql.EngineOpts{
		Logger: slog.New(slog.DiscardHandler), MaxSamples: math.MaxInt, Timeout: time.Hour, Parser: parser.NewParser(parser.Options{}),
	})
	t.Cleanup(func() { w.engine.Close() })
	return w
}

// shipped returns the groups of the rule files, in the order in which they read each other.
func shipped(t testing.TB) (groups []rulefmt.RuleGroup) {
	t.Helper()
	for _, name := range []string{"usage.yml", "health.yml", "alerts.yml"} {
		data, err := fs.ReadFile(rules.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		file, errs := rulefmt.Parse(data, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
		for _, err := range errs {
			t.Fatalf("%s: %v", name, err)
		}
		groups = append(groups, file.Groups...)
	}
	return groups
}

// add appends a sample to a series, which is named as in PromQL.
func (w *world) add(name string, at time.Time, v float64, label ...string) {
	w.named(name, label...).add(at.UnixMilli(), v)
}

// named returns a series, which is named as in PromQL.
func (w *world) named(name string, label ...string) *column {
	return w.column(labels.FromStrings(append([]string{model.MetricNameLabel, name}, label...)...))
}

func (w *world) column(ls labels.Labels) *column {
	key := ls.String()
	c := w.index[key]
	if c == nil {
		c = &column{labels: ls}
		w.index[key] = c
		name := ls.Get(model.MetricNameLabel)
		w.series[name] = append(w.series[name], c)
	}
	return c
}

func (c *column) add(at int64, v float64) {
	c.points = append(c.points, sample{at, v})
}

// record appends what a rule recorded, with the markers that Prometheus writes where a series ends.
func (c *column) record(points []promql.FPoint, every, end int64) {
	for i, p := range points {
		c.add(p.T, p.F)
		next := p.T + every
		if next <= end && (i+1 == len(points) || points[i+1].T > next) {
			c.end(next)
		}
	}
}

// end appends the marker that Prometheus writes where a series ends.
func (c *column) end(at int64) { c.add(at, math.Float64frombits(value.StaleNaN)) }

// query returns the values of an expression.
func (w *world) query(expr string, start, end time.Time, step time.Duration) promql.Matrix {
	w.t.Helper()
	q, err := w.engine.NewRangeQuery(context.Background(), w, nil, expr, start, end, step)
	if err != nil {
		w.t.Fatalf("%s: %v", expr, err)
	}
	result := q.Exec(context.Background())
	if result.Err != nil {
		w.t.Fatalf("%s: %v", expr, result.Err)
	}
	matrix, err := result.Matrix()
	if err != nil {
		w.t.Fatalf("%s: %v", expr, err)
	}
	kept := make(promql.Matrix, len(matrix))
	for i, s := range matrix {
		kept[i] = promql.Series{Metric: s.Metric, Floats: slices.Clone(s.Floats)}
	}
	q.Close()
	return kept
}

// firing is a stretch of time in which an alert fired.
type firing struct {
	alert      string
	labels     labels.Labels
	start, end time.Time
}

func (f firing) String() string {
	return fmt.Sprintf("%s%s from %s to %s", f.alert, f.labels, f.start.UTC().Format("Jan 2 15:04"), f.end.UTC().Format("Jan 2 15:04"))
}

// firings says when an alert fires whose expression had these values: as rules.AlertingRule, with its for and keep_firing_for.
func firings(rule rulefmt.Rule, s promql.Series, every time.Duration) (list []firing) {
	hold, keep := time.Duration(rule.For).Milliseconds(), time.Duration(rule.KeepFiringFor).Milliseconds()
	since, last := int64(math.MinInt64), int64(math.MinInt64)
	ls := labels.NewBuilder(s.Metric).Del(model.MetricNameLabel).Labels()
	for _, p := range s.Floats {
		active := len(list) > 0 && p.T <= list[len(list)-1].end.UnixMilli()
		if p.T > last+every.Milliseconds() {
			since = p.T
		}
		last = p.T
		if !active && p.T-since < hold {
			continue
		}
		if !active {
			list = append(list, firing{alert: rule.Alert, labels: ls, start: time.UnixMilli(p.T)})
		}
		list[len(list)-1].end = time.UnixMilli(p.T + every.Milliseconds() + keep)
	}
	return list
}

// Querier implements storage.Queryable.
func (w *world) Querier(int64, int64) (storage.Querier, error) { return querier{w}, nil }

type querier struct{ w *world }

func (q querier) Close() error { return nil }

func (q querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	name := ""
	for _, m := range matchers {
		if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual {
			name = m.Value
		}
	}
	candidates := q.w.series[name]
	if name == "" { // a regular expression
		candidates = slices.Collect(maps.Values(q.w.index))
	}
	var found []*column
	for _, c := range candidates {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(c.labels.Get(m.Name)) }) {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b *column) int { return strings.Compare(a.labels.String(), b.labels.String()) })
	return &columns{list: found}
}

// columns implements storage.SeriesSet.
type columns struct {
	list []*column
	at   int
}

func (s *columns) Next() bool                        { s.at++; return s.at <= len(s.list) }
func (s *columns) At() storage.Series                { return s.list[s.at-1] }
func (s *columns) Err() error                        { return nil }
func (s *columns) Warnings() annotations.Annotations { return nil }

// Labels implements storage.Series.
func (c *column) Labels() labels.Labels { return c.labels }

// Iterator implements storage.Series.
func (c *column) Iterator(chunkenc.Iterator) chunkenc.Iterator {
	return storage.NewListSeriesIterator(c)
}

// Len implements storage.Samples.
func (c *column) Len() int { return len(c.points) }

// Get implements storage.Samples.
func (c *column) Get(i int) chunks.Sample { return &c.points[i] }

// sample implements chunks.Sample.
type sample struct {
	at    int64
	value float64
}

func (s *sample) ST() int64                     { return 0 }
func (s *sample) T() int64                      { return s.at }
func (s *sample) F() float64                    { return s.value }
func (s *sample) H() *histogram.Histogram       { return nil }
func (s *sample) FH() *histogram.FloatHistogram { return nil }
func (s *sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s *sample) Copy() chunks.Sample           { c := *s; return &c }
