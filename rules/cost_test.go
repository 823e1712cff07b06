package rules_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// BenchmarkRules200Types evaluates the shipped rules as the daemon does, over a database of four weeks, and reports the CPU
// seconds that a minute of them takes: a group that is evaluated every hour counts for a sixtieth.
func BenchmarkRules200Types(b *testing.B) {
	const types = 200
	now := epoch.Add(28 * 24 * time.Hour)
	db := openPast(b, types, now)
	w := newWorld(b)
	expressions := parser.NewParser(parser.Options{})
	manager := rules.NewManager(&rules.ManagerOptions{
		AppendableV2: db, Queryable: db, QueryFunc: rules.EngineQueryFunc(w.engine, db), Parser: expressions,
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {}, ExternalURL: &url.URL{}, Logger: slog.New(slog.DiscardHandler),
	})
	groups, errs := manager.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, "usage.yml", "health.yml", "alerts.yml")
	for _, err := range errs {
		b.Fatal(err)
	}
	perMinute := 0.0
	evaluate := func(at time.Time) {
		for _, group := range shipped(b) {
			for _, g := range groups {
				if g.Name() == group.Name {
					before := cpuSeconds(b)
					g.Eval(b.Context(), at)
					perMinute += (cpuSeconds(b) - before) * time.Minute.Seconds() / g.Interval().Seconds()
				}
			}
		}
	}
	evaluate(now.Add(-time.Minute)) // the first of each group looks up more
	perMinute = 0
	at := now
	for b.Loop() {
		evaluate(at)
		at = at.Add(time.Minute)
	}
	b.ReportMetric(perMinute/float64(b.N), "cpu-s/min")
	b.ReportMetric(float64(db.Head().NumSeries()), "series")
}

func cpuSeconds(t testing.TB) float64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// openPast opens a database with what a daemon has that counts so many types: what was observed every half hour for four weeks
// and what the rules say of it for one, and its counters of the last day every fifteen seconds.
func openPast(b *testing.B, types int, now time.Time) *tsdb.DB {
	b.Helper()
	opts := tsdb.DefaultOptions()
	opts.RetentionDuration = (31 * 24 * time.Hour).Milliseconds()
	db, err := tsdb.Open(b.TempDir(), slog.New(slog.DiscardHandler), nil, opts, tsdb.NewDBStats())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	db.DisableCompactions()
	p := &past{b: b, db: db, refs: map[string]storage.SeriesRef{}, windows: windows(b, shipped(b))}
	for at := now.Add(-28 * 24 * time.Hour); at.Before(now.Add(-25 * time.Hour)); at = at.Add(30 * time.Minute) {
		p.derived(types, at, now.Sub(at) < 8*24*time.Hour)
	}
	for at := now.Add(-25 * time.Hour); at.Before(now); at = at.Add(15 * time.Second) {
		if at.Truncate(time.Minute).Equal(at) {
			p.derived(types, at, true)
		}
		p.counters(types, at, at.Sub(epoch).Hours())
	}
	return db
}

// past writes samples.
type past struct {
	b    *testing.B
	db   *tsdb.DB
	refs map[string]storage.SeriesRef
	app  storage.AppenderV2

	windows map[string]int
}

func (p *past) add(name string, at time.Time, v float64, label ...string) {
	p.b.Helper()
	key := fmt.Sprint(name, label)
	var ls labels.Labels
	if p.refs[key] == 0 {
		ls = labels.FromStrings(append([]string{model.MetricNameLabel, name}, label...)...)
	}
	ref, err := p.app.Append(p.refs[key], ls, 0, at.UnixMilli(), v, nil, nil, storage.AOptions{})
	if err != nil {
		p.b.Fatal(err)
	}
	p.refs[key] = ref
}

func (p *past) commit() {
	p.b.Helper()
	if err := p.app.Commit(); err != nil {
		p.b.Fatal(err)
	}
}

func (p *past) derived(types int, at time.Time, all bool) {
	p.app = p.db.AppenderV2(context.Background())
	defer p.commit()
	for i := range types {
		name := "type_" + strconv.Itoa(i)
		for window, minutes := range p.windows {
			v := season(int(at.Sub(epoch).Minutes())) * float64(i+1) * float64(minutes)
			p.add(observed, at, v, "event_type", name, "window", window)
			if all {
				p.add("usage:activity:excess", at, 0.01, "event_type", name, "window", window, "side", "low")
				p.add("usage:activity:excess", at, 0.02, "event_type", name, "window", window, "side", "both")
				p.add("usage:activity:expected", at, v, "event_type", name, "window", window)
			}
		}
		if at.Truncate(time.Hour).Equal(at) {
			p.restless(name, at)
		}
		p.add("usage:timely_events:total", at, at.Sub(epoch).Minutes()*float64(i+1), "event_type", name, "instance", "1")
	}
}

// restless adds what the rules record of a type every hour.
func (p *past) restless(name string, at time.Time) {
	for window := range p.windows {
		p.add("usage:activity:restless", at, 0.01, "event_type", name, "window", window, "side", "low")
		p.add("usage:activity:restless", at, 0.02, "event_type", name, "window", window, "side", "both")
	}
	p.add("usage:activity:restless", at, 0.01, "event_type", name, "window", "near", "side", "low")
	p.add("usage:activity:restless", at, 0.01, "event_type", name, "window", "near", "side", "high")
}

func (p *past) counters(types int, at time.Time, hours float64) {
	p.app = p.db.AppenderV2(context.Background())
	defer p.commit()
	for i := range types {
		name := "type_" + strconv.Itoa(i)
		n := hours * 60 * float64(i+1)
		p.add("usage_events_total", at, n, "event_type", name, "instance", "1")
		p.add("usage_late_events_total", at, 0, "event_type", name, "instance", "1")
		p.add("usage_event_outcomes_total", at, n, "event_type", name, "outcome", "success", "instance", "1")
		p.add("usage_event_outcomes_total", at, n/100, "event_type", name, "outcome", "failure", "instance", "1")
	}
	p.add("usaged_apply_lag_seconds", at, 0, "instance", "1")
}
