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

// play has a world live through the lanes from s.from on, behind a past that is written at once, and returns the alerts.
func (w *world) play(groups []rulefmt.RuleGroup, lanes []*lane, lag func(minute int) float64, s span) []firing {
	w.t.Helper()
	w.backfill(windows(w.t, groups), lanes, s.from)
	scraped := s.from - minutesPerDay - 60
	for _, l := range lanes {
		w.scrape(l, span{scraped, s.to})
	}
	instance := w.named("usaged_apply_lag_seconds", "instance", "1")
	for m := scraped; m <= s.to; m++ {
		instance.add(at(m).UnixMilli(), lag(m))
	}
	total := w.live(needed(w.t, groups, timely))
	total.now = scraped - 1
	total.until(s.from - 1)
	l := w.live(groups)
	l.now = s.from - 1
	l.until(s.to)
	return l.fired()
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

// backfill writes what was observed in each window every half hour, and of all types together; and that it went up and down in the last
// eight days no more than independent events do.
func (w *world) backfill(windows map[string]int, lanes []*lane, end int) {
	for window, length := range windows {
		sums := make([]float64, end)
		for _, l := range append(slices.Clone(lanes), &lane{name: "__all__"}) {
			for _, side := range []string{"low", "both"} {
				w.calm(l.name, window, side, end)
			}
		}
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

// calm writes that there was no excess in a window, hour by hour.
func (w *world) calm(name, window, side string, end int) {
	c := w.named("usage:activity:restless", "event_type", name, "window", window, "side", side)
	for m := (end - 8*minutesPerDay) / 60 * 60; m < end; m += 60 {
		c.add(at(m).UnixMilli(), 0)
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

// needed returns of the groups the rules that have a name, and those that they read, before or after them.
func needed(t testing.TB, groups []rulefmt.RuleGroup, names ...string) []rulefmt.RuleGroup {
	t.Helper()
	rules := map[string][]rulefmt.Rule{}
	for _, group := range groups {
		for _, rule := range group.Rules {
			rules[rule.Record+rule.Alert] = append(rules[rule.Record+rule.Alert], rule)
		}
	}
	wanted := map[string]bool{}
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		if wanted[name] {
			continue
		}
		wanted[name] = true
		for _, rule := range rules[name] {
			for _, s := range selectors(t, rule.Expr) {
				names = append(names, s.Name)
			}
		}
	}
	kept := slices.Clone(groups)
	for g := range kept {
		kept[g].Rules = slices.DeleteFunc(slices.Clone(kept[g].Rules), func(r rulefmt.Rule) bool { return !wanted[r.Record+r.Alert] })
	}
	return kept
}
