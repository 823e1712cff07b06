package embedded

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"usaged/exporter/backfill"
)

// DerivePast adds to what WritePast has written what the recording rules in force make of it: the series of some metrics, and what
// these are made of, at the times of a grid, where the rules have not recorded them themselves. given are metrics that are read as they are and
// not derived: what WritePast has written, and what the rules learn from their own earlier results. It returns how many samples there are now in all.
func (p *Prometheus) DerivePast(ctx context.Context, given, metrics []string, g backfill.Grid) (samples uint64, err error) {
	r := p.running.Load()
	if r == nil {
		return 0, ErrNotOpen
	}
	d := &derivation{r: r, g: g, rules: r.loader.recording(), known: map[string][]promql.Series{}}
	for _, metric := range given {
		delete(d.rules, metric)
	}
	recorded := map[string]backfill.Recorded{}
	for _, metric := range metrics {
		if err := d.derive(ctx, metric); err != nil {
			return 0, fmt.Errorf("derive %s of the past: %w", metric, err)
		}
		if recorded[metric], err = p.Recorded(ctx, metric, g); err != nil {
			return 0, err
		}
	}
	kept := func(ls labels.Labels) (from, until int64) {
		if slices.Contains(metrics, ls.Get(model.MetricNameLabel)) {
			return 0, 0
		}
		return math.MinInt64, math.MaxInt64
	}
	return r.replacePast(ctx, kept, d.written(metrics, recorded))
}

// recording returns the rules that record, by what they record, in the order of the files.
func (l *ruleLoader) recording() map[string][]rulefmt.Rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	rules := map[string][]rulefmt.Rule{}
	for _, name := range l.files() {
		if l.loaded[name] == nil {
			continue
		}
		for _, g := range l.loaded[name].Groups {
			for _, rule := range g.Rules {
				if rule.Record != "" {
					rules[rule.Record] = append(rules[rule.Record], rule)
				}
			}
		}
	}
	return rules
}

// derivation evaluates rules at the times of a grid: those of a metric, and before them those of what they read. Queries find
// what it has derived, and everything else in the TSDB.
type derivation struct {
	r     *running
	g     backfill.Grid
	rules map[string][]rulefmt.Rule
	known map[string][]promql.Series // what has been derived, by metric
}

// derive evaluates the rules of a metric, unless it has none, as one that is scraped.
func (d *derivation) derive(ctx context.Context, metric string) error {
	if _, done := d.known[metric]; done || len(d.rules[metric]) == 0 {
		return nil
	}
	d.known[metric] = []promql.Series{} // its rules may read it themselves
	for _, rule := range d.rules[metric] {
		expr, err := d.r.loader.Parse(rule.Expr)
		if err != nil {
			return err
		}
		for _, read := range metricsOf(expr) {
			if err := d.derive(ctx, read); err != nil {
				return err
			}
		}
		series, err := d.evaluate(ctx, &rule)
		if err != nil {
			return fmt.Errorf("%s: %w", metric, err)
		}
		d.known[metric] = append(d.known[metric], series...)
	}
	return nil
}

// metricsOf returns the metrics that an expression reads.
func metricsOf(expr parser.Expr) (metrics []string) {
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if selector, ok := n.(*parser.VectorSelector); ok && selector.Name != "" {
			metrics = append(metrics, selector.Name)
		}
		return nil
	})
	return metrics
}

// evaluate evaluates a rule.
func (d *derivation) evaluate(ctx context.Context, rule *rulefmt.Rule) ([]promql.Series, error) {
	q, err := d.r.engine.NewRangeQuery(ctx, d, nil, rule.Expr, d.g.Start.Add(d.g.Step), d.g.Until(), d.g.Step)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	matrix, err := q.Exec(ctx).Matrix()
	if err != nil {
		return nil, err
	}
	series := make([]promql.Series, 0, len(matrix))
	for _, s := range matrix {
		b := labels.NewBuilder(s.Metric)
		b.Set(model.MetricNameLabel, rule.Record)
		for name, value := range rule.Labels {
			b.Set(name, value)
		}
		series = append(series, promql.Series{Metric: b.Labels(), Floats: slices.Clone(s.Floats)}) // the query takes its own back
	}
	return series, nil
}

// written returns the samples of metrics that were not recorded.
func (d *derivation) written(metrics []string, recorded map[string]backfill.Recorded) iter.Seq[backfill.Series] {
	return func(yield func(backfill.Series) bool) {
		var samples []backfill.Sample
		for _, metric := range metrics {
			for _, s := range d.known[metric] {
				samples = samples[:0]
				live := recorded[metric].Of(s.Metric)
				for _, f := range s.Floats {
					if live == nil || !live[d.g.Cell(f.T)] {
						samples = append(samples, backfill.Sample{At: f.T, Value: f.F})
					}
				}
				if !yield(backfill.Series{Labels: s.Metric, Samples: samples}) {
					return
				}
			}
		}
	}
}

// Querier implements storage.Queryable.
func (d *derivation) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := d.r.db.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	return &derivedQuerier{q, d.known}, nil
}

type derivedQuerier struct {
	storage.Querier
	known map[string][]promql.Series
}

// Select finds series. The engine trims their samples to its time.
func (q *derivedQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	metric := ""
	for _, m := range matchers {
		if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual {
			metric = m.Value
		}
	}
	list, derived := q.known[metric]
	if !derived {
		return q.Querier.Select(ctx, sorted, hints, matchers...)
	}
	found := &foundSeries{}
	for _, s := range list {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Metric.Get(m.Name)) }) {
			found.list = append(found.list, s)
		}
	}
	slices.SortFunc(found.list, func(a, b promql.Series) int { return labels.Compare(a.Metric, b.Metric) })
	return found
}

// foundSeries is a storage.SeriesSet.
type foundSeries struct {
	list []promql.Series
	next int
}

func (f *foundSeries) Next() bool {
	f.next++
	return f.next <= len(f.list)
}

func (f *foundSeries) At() storage.Series                { return promql.NewStorageSeries(f.list[f.next-1]) }
func (f *foundSeries) Err() error                        { return nil }
func (f *foundSeries) Warnings() annotations.Annotations { return nil }
