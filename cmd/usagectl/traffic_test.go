package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usaged/aggregator/event"
	"usaged/client"
)

// monday is the beginning of a week.
var monday = time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC)

func week(t *traffic) []client.Event {
	return slices.Collect(t.between(monday, monday.Add(7*day)))
}

// TestTrafficGolden holds that a seed means the same events in every version: an id that was counted belongs to one event.
func TestTrafficGolden(t *testing.T) {
	t.Parallel()
	const n, want = 1000, "00831865cf60ae59"
	var text strings.Builder
	for _, e := range week(newTraffic(1, 60, 2000, scenario{}))[:n] {
		line, err := encodeLine(e)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(line)
	}
	sum := sha256.Sum256([]byte(text.String()))
	if got := hex.EncodeToString(sum[:8]); got != want {
		t.Errorf("digest of the first %d events %s, want %s; they begin with\n%.600s", n, got, want, text.String())
	}
}

// TestTrafficIsTheSameInEveryWindow makes a week in one piece and in many.
func TestTrafficIsTheSameInEveryWindow(t *testing.T) {
	t.Parallel()
	whole := week(newTraffic(7, 60, 2000, scenario{}))
	var parts []client.Event
	for from := monday; from.Before(monday.Add(7 * day)); from = from.Add(7 * time.Minute * 60 / 13) {
		to := from.Add(7 * time.Minute * 60 / 13)
		parts = slices.AppendSeq(parts, newTraffic(7, 60, 2000, scenario{}).between(from, earlier(to, monday.Add(7*day))))
	}
	if len(whole) != len(parts) {
		t.Fatalf("%d events in parts, want %d", len(parts), len(whole))
	}
	ids := map[string]bool{}
	for i, e := range whole {
		if e.ID != parts[i].ID || !e.CreatedAt.Equal(parts[i].CreatedAt) || e.UserID != parts[i].UserID {
			t.Fatalf("event %d is %+v in parts, want %+v", i, parts[i], e)
		}
		if ids[e.ID] {
			t.Fatalf("the id %s stands twice", e.ID)
		}
		ids[e.ID] = true
		if i > 0 && e.CreatedAt.Before(whole[i-1].CreatedAt) {
			t.Fatalf("event %d is before the one before it", i)
		}
	}
	for _, other := range []*traffic{
		newTraffic(8, 60, 2000, scenario{}), newTraffic(7, 61, 2000, scenario{}), newTraffic(7, 60, 2001, scenario{}),
	} {
		for _, e := range week(other) {
			if ids[e.ID] {
				t.Fatalf("%s is an event of other parameters too", e.ID)
			}
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// TestTrafficShape looks at a week of one seed, so that nothing here depends on luck.
func TestTrafficShape(t *testing.T) {
	t.Parallel()
	const perDay = 5000
	events := week(newTraffic(3, 200, perDay, scenario{}))
	byDay, byHour, byType, byUser, byModel := map[time.Weekday]int{}, map[int]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	failed := 0
	for _, e := range events {
		byDay[e.CreatedAt.Weekday()]++
		byHour[e.CreatedAt.Hour()]++
		byType[e.Type]++
		byUser[e.UserID]++
		byModel[e.Metadata["model"]]++
		if e.Metadata["outcome"] == "failure" {
			failed++
		}
	}
	if expected := 7.0 * perDay; math.Abs(float64(len(events))-expected) > 5*math.Sqrt(expected) {
		t.Errorf("%d events, want about %v: a Poisson count is within five times its root", len(events), expected)
	}
	for _, weekday := range []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday} {
		for _, weekend := range []time.Weekday{time.Saturday, time.Sunday} {
			if byDay[weekday] < 3*byDay[weekend] {
				t.Errorf("%s has %d events, %s %d", weekday, byDay[weekday], weekend, byDay[weekend])
			}
		}
	}
	if byHour[9] < 5*byHour[3] {
		t.Errorf("9 o'clock has %d events, 3 o'clock %d", byHour[9], byHour[3])
	}
	for _, k := range kinds {
		if got := float64(byType[k.name]) / float64(len(events)); math.Abs(got-k.share) > 0.02 {
			t.Errorf("%s has a share of %.3f, want %.2f", k.name, got, k.share)
		}
	}
	if ratio := float64(failed) / float64(len(events)); ratio < 0.0035 || ratio > 0.0065 {
		t.Errorf("%.4f of the events failed, want 0.005", ratio)
	}
	if first, last := byUser[personName(0)], byUser[personName(199)]; first < 20*last || len(byUser) < 190 {
		t.Errorf("the first user has %d events, the last %d; there are %d users", first, last, len(byUser))
	}
	if byModel["small-1"] < byModel["large-1"] || byModel["reasoning-1"] == 0 {
		t.Errorf("models %v", byModel)
	}
}

func TestPersonNamesAreDistinct(t *testing.T) {
	t.Parallel()
	names := map[string]int{}
	for i := range 5000 {
		if other, ok := names[personName(i)]; ok {
			t.Fatalf("%d and %d are both %s", other, i, personName(i))
		}
		names[personName(i)] = i
	}
}

// TestTrafficIsValid passes all that is made through the daemon's own decoder.
func TestTrafficIsValid(t *testing.T) {
	t.Parallel()
	var body []byte
	events := week(newTraffic(1, 60, 1000, scenario{}))
	for _, e := range events {
		line, err := encodeLine(e)
		if err != nil {
			t.Fatal(err)
		}
		body = append(body, line...)
	}
	batch, err := event.NewDecoder().Decode(body, event.NDJSON, event.Origin{
		Token: "producer", User: "producer", AcceptedAt: monday.Add(7 * day), Oldest: event.DayOf(monday),
	})
	if err != nil || batch.N != len(events) {
		t.Fatalf("%v", err)
	}
}

// TestScenarios compares the last six hours of a working day with the same hours when nothing is wrong.
func TestScenarios(t *testing.T) {
	t.Parallel()
	from := monday.Add(10 * time.Hour)
	count := func(sc scenario, from, to time.Time) (total, typed, failed int) {
		for e := range newTraffic(5, 60, 20000, sc).between(from, to) {
			total++
			if e.Type == "sql_execution" {
				typed++
			}
			if e.Metadata["outcome"] == "failure" {
				failed++
			}
		}
		return total, typed, failed
	}
	total, typed, _ := count(scenario{}, from, from.Add(6*time.Hour))
	for _, tc := range []struct {
		scenario             scenario
		total, typed, failed float64 // in the shares of a steady day's total, its sql_execution and the total
	}{
		{scenario{name: scenarioDrop, kind: "sql_execution", factor: 0.7}, 1 - 0.7*float64(typed)/float64(total), 0.3, 0.005},
		{scenario{name: scenarioDrop, factor: 0.5}, 0.5, 0.5, 0.005},
		{scenario{name: scenarioFail, factor: 0.3}, 1, 1, 0.3},
		{scenario{name: scenarioOutage}, 0, 0, 0},
		{scenario{name: steady, factor: 0.9}, 1, 1, 0.005},
	} {
		sc := tc.scenario
		sc.from = from
		all, some, failed := count(sc, from, from.Add(6*time.Hour))
		near := func(what string, got int, of int, want float64) {
			if math.Abs(float64(got)/float64(of)-want) > 0.03 {
				t.Errorf("%+v: %s: %d of %d, want %.2f", sc, what, got, of, want)
			}
		}
		near("events", all, total, tc.total)
		near("sql_execution", some, typed, tc.typed)
		near("failures", failed, max(all, 1), tc.failed)
		before, _, _ := count(sc, monday, from)
		if quiet, _, _ := count(scenario{}, monday, from); before != quiet {
			t.Errorf("%+v: %d events before it begins, want %d", sc, before, quiet)
		}
	}
}

// TestSimulateLive runs two hours in simulated time: each event goes out when it happens, and not before.
func TestSimulateLive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithDeadline(t.Context(), start.Add(2*time.Hour))
		defer cancel()
		out := &timedWriter{}
		sim := &simulation{
			flags:   &simulateCommand{batch: 1000, dryRun: true},
			session: &session{process: &process{stdout: out, now: time.Now}},
			report:  simulateReport{Types: map[string]int{}},
		}
		tr := newTraffic(1, 60, 240_000, scenario{})
		if err := sim.live(ctx, tr, start); ctx.Err() == nil {
			t.Fatal(err)
		}
		want := slices.Collect(tr.between(start, start.Add(2*time.Hour)))
		if sim.report.Events != len(want) || len(want) < 100 {
			t.Errorf("%d events, want %d", sim.report.Events, len(want))
		}
		if out.late > liveInterval || out.early {
			t.Errorf("an event was %s late, want at most %s; early %v", out.late, liveInterval, out.early)
		}
	})
}

// timedWriter compares the times of events with the time at which they are written.
type timedWriter struct {
	late  time.Duration
	early bool
}

func (w *timedWriter) Write(data []byte) (int, error) {
	for line := range bytes.Lines(data) {
		var e client.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, err
		}
		w.late = max(w.late, time.Since(e.CreatedAt))
		w.early = w.early || e.CreatedAt.After(time.Now())
	}
	return len(data), nil
}
