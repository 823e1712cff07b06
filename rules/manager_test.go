package rules_test

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"usaged/rules/health"
)

// simulated answers for a Prometheus at a time of a world.
type simulated struct {
	w   *world
	now time.Time
}

func (s *simulated) String() string { return "a world" }

func (s *simulated) Query(_ context.Context, expr string, at time.Time) (model.Vector, error) {
	if at.IsZero() {
		at = s.now
	}
	var vector model.Vector
	for _, series := range s.w.query(expr, at, at, time.Minute) {
		metric := model.Metric{}
		series.Metric.Range(func(l labels.Label) { metric[model.LabelName(l.Name)] = model.LabelValue(l.Value) })
		vector = append(vector, &model.Sample{Metric: metric, Value: model.SampleValue(series.Floats[0].F), Timestamp: model.Time(series.Floats[0].T)})
	}
	return vector, nil
}

// fourWeeks adds what the hours of four weeks before a time had, of a type with so many events an hour.
func (w *world) fourWeeks(start time.Time, name string, perHour float64) {
	for at := start.Add(-28*24*time.Hour - time.Hour); at.Before(start); at = at.Add(time.Hour) {
		for window, hours := range map[string]float64{"15m": 0.25, "1h": 1, "1d": 24} {
			w.add("usage:activity:observed", at, hours*perHour, "event_type", name, "window", window)
		}
	}
}

// even adds that the traffic of types went up and down no more than independent events do.
func (w *world) even(start, end time.Time, names ...string) {
	for _, name := range names {
		for at := start.Add(-time.Hour); at.Before(end); at = at.Add(20 * time.Minute) {
			for _, window := range []string{"15m", "1h", "1d", "near"} {
				w.add("usage:activity:dispersion", at, 0.0012, "event_type", name, "window", window)
				w.add("usage:activity:dispersion_up", at, 0.0012, "event_type", name, "window", window)
			}
		}
	}
}

// liveFrom evaluates the shipped rules as a daemon does, and returns the alerts.
func (w *world) liveFrom(start, end time.Time) []firing {
	l := w.live(shipped(w.t))
	l.now = minuteOf(start) - 1
	l.until(minuteOf(end))
	return l.fired()
}

// TestSystemManagersView polls health every five seconds while one of two types loses two thirds of its events for four hours.
func TestSystemManagersView(t *testing.T) {
	t.Parallel()
	var (
		w      = newWorld(t)
		random = rand.New(rand.NewPCG(3, 4))
		start  = time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)
		drop   = start.Add(4 * time.Hour)
		back   = start.Add(8 * time.Hour)
		end    = start.Add(11 * time.Hour)
		totals [2]float64
	)
	w.even(start, end, "falls", "stays", health.AllTypes)
	w.fourWeeks(start, "falls", 1200)
	w.fourWeeks(start, "stays", 600)
	w.fourWeeks(start, health.AllTypes, 1800)
	for at := start.Add(-2 * time.Hour); at.Before(end); at = at.Add(time.Minute) {
		falls := 20.0
		if !at.Before(drop) && at.Before(back) {
			falls /= 3
		}
		for i, mean := range []float64{falls, 10} {
			totals[i] += math.Max(0, math.Round(mean+math.Sqrt(mean)*random.NormFloat64()))
			w.add("usage_events_total", at, totals[i], "event_type", []string{"falls", "stays"}[i], "instance", "1")
		}
		w.add("usaged_apply_lag_seconds", at, 0, "instance", "1")
	}
	w.liveFrom(start, end)

	manager := &simulated{w: w}
	reader := health.NewReader(manager)
	var changes []*health.Report
	var last *health.Report
	for at := start.Add(3 * time.Hour); at.Before(end); at = at.Add(5 * time.Second) {
		manager.now = at
		r, err := reader.Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if age := at.Sub(r.EvaluatedAt); age < 0 || age >= time.Minute {
			t.Fatalf("at %s the report is %s old, want less than a minute", at, age)
		}
		if last == nil || r.All.Mode != last.All.Mode {
			changes = append(changes, r)
			t.Logf("%s after the drop began: %s, score %.1f: %s", at.Sub(drop), r.All.Mode, *r.All.Score, r.All.Text)
		}
		if r != last {
			w.checkReport(r)
		}
		last = r
	}
	if n := len(changes) - 1; n != 2 || changes[0].All.Mode != "normal" || last.All.Mode != "normal" {
		t.Fatalf("the mode changed %d times and ended as %s; want one change down and one up", n, last.All.Mode)
	}
	for _, r := range changes[1:] {
		if !r.All.Since.Equal(r.EvaluatedAt) {
			t.Errorf("%s since %s, which was first seen at %s", r.All.Mode, r.All.Since, r.EvaluatedAt)
		}
	}
	if delay := changes[1].EvaluatedAt.Sub(drop); delay < 0 || delay > 20*time.Minute {
		t.Errorf("the first change came %s after the drop, want at most 20m", delay)
	}
	if delay := changes[len(changes)-1].EvaluatedAt.Sub(back); delay < 0 || delay > time.Hour {
		t.Errorf("the last change came %s after its end, want at most 1h", delay)
	}
}

// checkReport compares a report with what the rules recorded, and expects it to say why.
func (w *world) checkReport(r *health.Report) {
	w.t.Helper()
	if r.All.Score == nil || r.Types[0].Score == nil {
		w.t.Fatalf("at %s all are %s: %s; %s is %s: %s", r.EvaluatedAt, r.All.Mode, r.All.Text, r.Types[0].EventType, r.Types[0].Mode, r.Types[0].Text)
	}
	for expr, got := range map[string]float64{
		"usage:health:score":                          *r.All.Score,
		"usage:health:mode":                           map[string]float64{"normal": 0, "watch": 1, "degraded": 2, "critical": 3}[r.All.Mode],
		`usage:health:type_score{event_type="falls"}`: *r.Types[0].Score,
	} {
		if want := w.query(expr, r.EvaluatedAt, r.EvaluatedAt, time.Minute); len(want) != 1 || want[0].Floats[0].F != got {
			w.t.Errorf("at %s %s is %v, and health says %v", r.EvaluatedAt, expr, want, got)
		}
	}
	if r.All.Mode != "normal" && *r.All.Score < 90 && !strings.Contains(r.All.Text, "were expected") {
		w.t.Errorf("at %s it is %s and the reason is: %s", r.EvaluatedAt, r.All.Mode, r.All.Text)
	}
	if r.Types[1].Mode != "normal" {
		w.t.Errorf("at %s the type that stays is %s: %s", r.EvaluatedAt, r.Types[1].Mode, r.Types[1].Text)
	}
}
