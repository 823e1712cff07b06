package rules_test

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
)

const (
	observed = "usage:activity:observed"
	timely   = "usage:timely_events:total"
	// history is how much of the past a lane has before anything is evaluated minute by minute: weeks to expect the last ten days,
	// of which the noise is known then.
	history = 5 * minutesPerWeek
)

// epoch is the first minute of all lanes, a Monday.
var epoch = time.Date(2026, time.March, 2, 0, 0, 0, 0, time.UTC)

func at(minute int) time.Time { return epoch.Add(time.Duration(minute) * time.Minute) }

// span is minutes from its beginning to before its end.
type span struct{ from, to int }

func (s span) holds(minute int) bool { return minute >= s.from && minute < s.to }

// lane is an event type in a world: what was counted of it in each minute.
type lane struct {
	name   string
	counts []float64
	late   []float64 // of events from long ago
	failed []float64 // events that said that they failed, where all say how they ended
	quiet  span      // a planned quiet time
}

// play has a world live through the lanes: up to the first minute of s as it is after a backfill, which knows what was
// observed every half hour, and from then on step by step. It returns the alerts of s.
func (w *world) play(groups []rulefmt.RuleGroup, lanes []*lane, lag func(minute int) float64, s span, step time.Duration) []firing {
	w.t.Helper()
	w.backfill(windows(w.t, groups), lanes, s.from)
	past := slices.Clone(groups)
	for i := range past {
		past[i].Rules = slices.DeleteFunc(slices.Clone(past[i].Rules), func(r rulefmt.Rule) bool { return r.Record == observed })
	}
	w.evaluate(past, at(s.from-10*minutesPerDay), at(s.from-30), 30*time.Minute)

	scraped := s.from - minutesPerDay - 60
	for _, l := range lanes {
		w.scrape(l, span{scraped, s.to})
	}
	instance := w.named("usaged_apply_lag_seconds", "instance", "1")
	for m := scraped; m <= s.to; m++ {
		instance.add(at(m).UnixMilli(), lag(m))
	}
	w.evaluate(needed(w.t, groups, timely), at(scraped), at(s.from-1), time.Minute)
	return w.evaluate(groups, at(s.from), at(s.to), step)
}

// windows returns the windows of the rules in minutes.
func windows(t testing.TB, groups []rulefmt.RuleGroup) map[string]int {
	t.Helper()
	list := map[string]int{}
	for _, group := range groups {
		for _, rule := range group.Rules {
			if name := rule.Labels["window"]; rule.Record == observed && name != "" {
				length, err := model.ParseDuration(name)
				if err != nil {
					t.Fatal(err)
				}
				list[name] = int(time.Duration(length) / time.Minute)
			}
		}
	}
	return list
}

// backfill writes what was observed in each window every half hour, and of all types together.
func (w *world) backfill(windows map[string]int, lanes []*lane, end int) {
	for window, length := range windows {
		sums := make([]float64, end)
		for _, l := range lanes {
			c := w.named(observed, "event_type", l.name, "window", window)
			sum := 0.0
			for m := range end {
				if m%30 == 0 && m >= length {
					c.add(at(m).UnixMilli(), sum)
					sums[m] += sum
				}
				sum += l.counts[m]
				if m >= length {
					sum -= l.counts[m-length]
				}
			}
		}
		c := w.named(observed, "event_type", "__all__", "window", window)
		for m := (length + 29) / 30 * 30; m < end; m += 30 {
			c.add(at(m).UnixMilli(), sums[m])
		}
	}
}

// scrape adds the counters of a lane, once a minute.
func (w *world) scrape(l *lane, s span) {
	all := w.named("usage_events_total", "event_type", l.name, "instance", "1")
	late := w.named("usage_late_events_total", "event_type", l.name, "instance", "1")
	good := w.named("usage_event_outcomes_total", "event_type", l.name, "outcome", "success", "instance", "1")
	bad := w.named("usage_event_outcomes_total", "event_type", l.name, "outcome", "failure", "instance", "1")
	quiet := w.named("usaged_quiet", "event_type", l.name, "instance", "1")
	total, lateTotal, failed := 0.0, 0.0, 0.0
	for m := s.from; m <= s.to; m++ {
		ms := at(m).UnixMilli()
		all.add(ms, total+lateTotal)
		late.add(ms, lateTotal)
		if l.failed != nil {
			good.add(ms, total-failed)
			bad.add(ms, failed)
		}
		if l.quiet.holds(m) {
			quiet.add(ms, 1)
		}
		if m == s.to {
			break
		}
		total += l.counts[m]
		if l.late != nil {
			lateTotal += l.late[m]
		}
		if l.failed != nil {
			failed += l.failed[m]
		}
	}
}

// needed returns of the groups the rules that have a name, and those that they read.
func needed(t testing.TB, groups []rulefmt.RuleGroup, names ...string) []rulefmt.RuleGroup {
	t.Helper()
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	kept := slices.Clone(groups)
	for g := len(kept) - 1; g >= 0; g-- {
		var list []rulefmt.Rule
		for _, rule := range slices.Backward(kept[g].Rules) {
			if !wanted[rule.Record+rule.Alert] {
				continue
			}
			list = append(list, rule)
			for _, s := range selectors(t, rule.Expr) {
				wanted[s.Name] = true
			}
		}
		slices.Reverse(list)
		kept[g].Rules = list
	}
	return kept
}
