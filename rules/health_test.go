package rules_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestDropIsSeen lets the traffic of a type drop by nearly half, whose past weeks are known by the hour alone, as after a backfill.
func TestDropIsSeen(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	var (
		w      = newWorld(t)
		random = rand.New(rand.NewPCG(1, 2))
		start  = time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
		drop   = start.Add(12 * time.Hour)
		back   = start.Add(16 * time.Hour)
		end    = start.Add(24 * time.Hour)
	)
	hourly := func(at time.Time) float64 { // 1,000 events an hour, twice as many by day as by night
		return 1000 * (1 - math.Cos(2*math.Pi*float64(at.Hour()*60+at.Minute())/1440)/3)
	}
	for at := start.Add(-4*week - time.Hour); at.Before(start); at = at.Add(time.Hour) {
		for window, part := range map[string]float64{"15m": 0.25, "1h": 1, "1d": 24} {
			w.add("usage:activity:observed", at, part*hourly(at), "event_type", "busy", "window", window)
		}
	}
	for at := start.Add(-4*week - time.Hour); at.Before(start); at = at.Add(time.Hour) {
		for window, part := range map[string]float64{"15m": 0.25, "1h": 1, "1d": 24} {
			w.add("usage:activity:observed", at, part*hourly(at), "event_type", "__all__", "window", window)
		}
	}
	total := 0.0
	for at := start.Add(-2 * time.Hour); at.Before(end); at = at.Add(time.Minute) {
		mean := hourly(at) / 60
		if !at.Before(drop) && at.Before(back) {
			mean *= 0.55
		}
		total += math.Max(0, math.Round(mean+math.Sqrt(mean)*random.NormFloat64()))
		w.add("usage_events_total", at, total, "event_type", "busy", "instance", "1")
		w.add("usaged_apply_lag_seconds", at, 0, "instance", "1")
	}
	var seen []firing
	w.even(start, end, "busy", "__all__")
	for _, f := range w.liveFrom(start, end) {
		if f.alert == "UsageActivityDropped" {
			seen = append(seen, f)
		}
	}
	if len(seen) != 1 {
		t.Fatalf("UsageActivityDropped fired %d times, want once: %v", len(seen), seen)
	}
	if delay := seen[0].start.Sub(drop); delay < 0 || delay > 30*time.Minute {
		t.Errorf("a drop at %v fired after %v: %v", drop, delay, seen[0])
	}
	if late := seen[0].end.Sub(back); late < 0 || late > time.Hour {
		t.Errorf("the alert ended %v after the drop: %v", late, seen[0])
	}
	var modes []float64
	for _, s := range w.query(`usage:health:mode`, start, end, time.Minute) {
		for _, p := range s.Floats {
			modes = append(modes, p.F)
		}
	}
	if modes = slices.Compact(modes); !slices.Equal(modes, []float64{0, 1, 0}) {
		t.Errorf("the modes were %v, want normal, watch, and normal again", modes)
	}
}
