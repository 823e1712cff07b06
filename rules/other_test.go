package rules_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/prometheus/prometheus/model/value"
)

// scenario is what happens to steady traffic with a past of four weeks and more.
type scenario struct {
	name    string
	perHour float64
	happen  func(random *rand.Rand, counts []float64)
	harms   []span  // what shall be told
	late    float64 // events from long ago that come in the first hour of day 37
}

// days is a span in days.
func days(from, to float64) span { return span{int(from * minutesPerDay), int(to * minutesPerDay)} }

// scenarioDays is how long a scenario is.
const scenarioDays = 56

// gone is a scenario in which all events are missing in some spans, the last so many of which shall be told.
func gone(name string, spans ...span) scenario {
	return scenario{name: name, perHour: 500, harms: spans, happen: func(random *rand.Rand, counts []float64) {
		for _, s := range spans {
			drop(random, counts, s, 1)
		}
	}}
}

// times has more or fewer events in a span.
func times(random *rand.Rand, counts []float64, s span, factor func(m int) float64) {
	for m := s.from; m < s.to && m < len(counts); m++ {
		f := factor(m)
		whole := float64(int(f))
		counts[m] = counts[m]*whole + thin(random, counts[m], f-whole)
	}
}

func always(f float64) func(int) float64 { return func(int) float64 { return f } }

// scenarios are those of docs/detection.md.
func scenarios() []scenario {
	after := func(name string, harm span, happen func(random *rand.Rand, counts []float64)) scenario {
		return scenario{name: name, perHour: 500, harms: []span{harm}, happen: func(random *rand.Rand, counts []float64) {
			happen(random, counts)
			drop(random, counts, harm, 1)
		}}
	}
	nothing := func(*rand.Rand, []float64) {}
	end := float64(scenarioDays)
	list := []scenario{
		gone("an outage of a week", days(35.4, 42.4)),
		gone("outages of 20 h, and of 4 h after 3 and 5 days", days(35.4, 36.23), days(38.4, 38.57), days(40.4, 40.57)),
		gone("outages of an hour on three days", days(35.4, 35.44), days(36.4, 36.44), days(37.4, 37.44)),
		after("doubled for a week, then an outage", days(37.4, 37.6), func(r *rand.Rand, c []float64) { times(r, c, days(28, 35), always(2)) }),
		{name: "doubled for good, and half of that missing after a week", perHour: 500, harms: []span{days(36.4, 36.6)}, happen: func(r *rand.Rand, c []float64) {
			times(r, c, days(29, end), always(2))
			drop(r, c, days(36.4, 36.6), 0.5)
		}},
		{name: "40% less for good", perHour: 500, harms: []span{days(30.4, 44.5)}, happen: func(r *rand.Rand, c []float64) { times(r, c, days(30.4, end), always(0.6)) }},
		after("5% more each week, then an outage", days(49.4, 49.6), func(r *rand.Rand, c []float64) {
			times(r, c, days(0, end), func(m int) float64 { return 1 + 0.05*float64(m)/minutesPerWeek })
		}),
		{name: "3% less each day", perHour: 500, harms: []span{days(30, end)}, happen: func(r *rand.Rand, c []float64) {
			times(r, c, days(30, end), func(m int) float64 { return 1 - 0.03*(float64(m)/minutesPerDay-30) })
		}},
		{name: "5 an hour, and an outage of a day", perHour: 5, harms: []span{days(37.4, 38.4)}, happen: func(r *rand.Rand, c []float64) { drop(r, c, days(37.4, 38.4), 1) }},
		after("born after 28 days, then an outage", days(50.4, 50.6), func(r *rand.Rand, c []float64) { drop(r, c, days(0, 28.3), 1) }),
		{name: "retired", perHour: 500, harms: []span{days(35.4, end)}, happen: func(r *rand.Rand, c []float64) { drop(r, c, days(35.4, end), 1) }},
		{name: "clocks an hour back", perHour: 500, happen: func(_ *rand.Rand, c []float64) {
			copy(c[34*minutesPerDay+60:], slices.Clone(c[34*minutesPerDay:len(c)-60]))
		}},
		{name: "clocks an hour forth", perHour: 500, happen: func(_ *rand.Rand, c []float64) { copy(c[34*minutesPerDay:], c[34*minutesPerDay+60:]) }},
		after("a holiday with a fifth of the events, and an outage a week after it", days(44.4, 44.6), func(r *rand.Rand, c []float64) { drop(r, c, days(37, 38), 0.8) }),
		{name: "an import of 100,000 old events", perHour: 500, late: 100_000, happen: nothing},
		{name: "three times as many for two hours", perHour: 500, harms: []span{days(37.4, 37.5)}, happen: func(r *rand.Rand, c []float64) { times(r, c, days(37.4, 37.5), always(3)) }},
		{name: "ten times as many for a day", perHour: 500, harms: []span{days(37.4, 38.4)}, happen: func(r *rand.Rand, c []float64) { times(r, c, days(37.4, 38.4), always(10)) }},
	}
	list[13].harms = append([]span{days(37, 38)}, list[13].harms...)
	return list
}

// odd are traces of traffic that is not steady at all, in which nothing happens but an outage of their last week but one.
func oddTraffic(t testing.TB) (list []scenario) {
	t.Helper()
	dir := cmp.Or(os.Getenv("USAGE_TESTDATA"), "../../shared/data")
	for _, name := range []string{"made_cron_hourly", "made_batch_daily", "made_weekend_only"} {
		path := dir + "/traffic/" + name + ".csv.gz"
		if !exists(path) {
			continue
		}
		tr, err := readTrace(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, recorded := range tr.types {
			list = append(list, scenario{name: name, perHour: perHour(recorded), harms: []span{days(47, 54)}, happen: func(_ *rand.Rand, c []float64) {
				copy(c, recorded[(8-int(tr.start.Weekday()))%7*minutesPerDay:])
				clear(c[47*minutesPerDay : 54*minutesPerDay])
			}})
		}
	}
	return list
}

// TestBenchScenarios plays the scenarios, and prints after how many minutes each harm was told, for which part of it, and what else was
// told.
func TestBenchScenarios(t *testing.T) {
	if os.Getenv(scoreEnv) == "" || os.Getenv(traceEnv) != "" {
		t.Skip("make bench-score runs it: it takes a while")
	}
	w := newWorld(t)
	list := append(scenarios(), oddTraffic(t)...)
	end := scenarioDays * minutesPerDay
	for i, s := range list {
		random := rand.New(rand.NewPCG(uint64(i), 5))
		l := &lane{name: fmt.Sprint(i), counts: steady(s.perHour)(random, end+1)}
		s.happen(random, l.counts)
		l.counts = l.counts[:end+1]
		if s.late > 0 {
			l.late = make([]float64, end+1)
			for m := range 60 {
				l.late[37*minutesPerDay+m] = s.late / 60
			}
		}
		w.scrape(l, span{0, end})
	}
	lag := w.named("usaged_apply_lag_seconds", "instance", "1")
	for m := range end {
		lag.add(at(m).UnixMilli(), 0)
	}
	l := w.live(judged(t))
	l.until(end - 1)
	printScenarios(t, w, l.fired(), list)
}

func printScenarios(t *testing.T, w *world, fired []firing, list []scenario) {
	t.Helper()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what happens\tevents an hour\ttold after\twhile it lasts\tother alarms\tcritical")
	for i, s := range list {
		var after []string
		var covered, critical float64
		other := about(fired, alerts...)
		other = slices.DeleteFunc(other, func(f firing) bool { return f.labels.Get("event_type") != fmt.Sprint(i) })
		for _, harm := range s.harms {
			first := "–"
			told := 0
			for _, f := range other {
				if harm.holds(minuteOf(f.start)) && first == "–" {
					first = (time.Duration(minuteOf(f.start)-harm.from) * time.Minute).String()
				}
				told += max(0, min(harm.to, minuteOf(f.end))-max(harm.from, minuteOf(f.start)))
			}
			covered = max(covered, float64(told)/float64(harm.to-harm.from))
			critical = max(critical, w.share(fmt.Sprint(i), harm, 3))
			after = append(after, first)
			other = slices.DeleteFunc(other, func(f firing) bool { return minuteOf(f.start) >= harm.from && minuteOf(f.start) < harm.to+60 })
		}
		fmt.Fprintf(table, "%s\t%.3g\t%v\t%.0f%%\t%d\t%.0f%%\n", s.name, s.perHour, after, 100*covered, len(other), 100*critical)
		for _, f := range other {
			t.Logf("%s: %v, day %.2f", s.name, f, float64(minuteOf(f.start))/minutesPerDay)
		}
	}
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
}

// share is the part of a span in which a type had a mode.
func (w *world) share(name string, s span, mode float64) float64 {
	n := 0
	for _, p := range w.named("usage:health:type_mode", "event_type", name).points {
		if m := minuteOf(time.UnixMilli(p.at)); s.holds(m) && p.value == mode && !value.IsStaleNaN(p.value) {
			n++
		}
	}
	return float64(n) / float64(s.to-s.from)
}
