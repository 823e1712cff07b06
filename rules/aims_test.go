package rules_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDropsAreSeenInTime holds what docs/detection.md promises of steady traffic: half of 500 events an hour and seven tenths of 200
// are missed within half an hour. make bench-score has the rest.
func TestDropsAreSeenInTime(t *testing.T) {
	t.Parallel()
	var (
		random = rand.New(rand.NewPCG(1, 2))
		start  = history + 2*minutesPerDay + 10*60
		s      = span{start - 30, start + 60}
		trials []trial
	)
	for _, c := range []struct{ perHour, part float64 }{{500, 0.5}, {200, 0.7}, {20, 1}} {
		for i := range 3 {
			counts := steady(c.perHour/season(start))(random, s.to+1)
			harm := span{start, s.to}
			drop(random, counts, harm, c.part)
			subject := fmt.Sprintf("%g/h", c.perHour)
			trials = append(trials, trial{subject: subject, scenario: fmt.Sprint(i), lane: &lane{name: fmt.Sprint(subject, i), counts: counts}, harm: harm})
		}
	}
	b := &scoreboard{}
	b.run(t, trials, noLag, s, time.Minute)
	limits := map[string]int{"500/h": 30, "200/h": 30, "20/h": 60}
	for _, o := range b.list {
		if o.detector != "UsageActivityDropped" {
			continue
		}
		if o.alarms > 0 || o.delay < 0 || o.delay > limits[o.subject] {
			t.Errorf("a drop of %s %s was told after %d minutes, with %d false alarms; want it within %d",
				o.subject, o.scenario, o.delay, o.alarms, limits[o.subject])
		}
	}
}

// TestNoFalseAlarms plays four days in which nothing happens, steady and with bursts.
func TestNoFalseAlarms(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	s := span{history, history + 4*minutesPerDay}
	var trials []trial
	for _, perHour := range []float64{5, 50, 500, 5000} {
		for name, draw := range map[string][]float64{
			"steady": steady(perHour)(random, s.to+1), "bursty": bursty(perHour)(random, s.to+1),
		} {
			name = fmt.Sprintf("%s, %g/h", name, perHour)
			trials = append(trials, trial{subject: name, scenario: undisturbed, lane: &lane{name: name, counts: draw}})
		}
	}
	b := &scoreboard{}
	for _, f := range b.run(t, trials, noLag, s, 5*time.Minute) {
		if f.alert == "UsageActivityDropped" {
			t.Errorf("a false alarm: %v", f)
		}
	}
}

func TestReadTrace(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string]string{
		"events.ndjson": `{"time":"2026-03-03T00:01:30Z","event_type":"a"}
{"time":1772496120,"event_type":"a"}
{"created_at":1772496060000,"type":"b"}`,
		"counts.csv": "minute,type,count\n2026-03-03T00:01:00Z,a,1\n2026-03-03T00:02:00Z,a,1\n2026-03-03T00:01:00Z,b,1\n",
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		tr, err := readTrace(path)
		if err != nil {
			t.Fatal(err)
		}
		a, b := tr.types["a"], tr.types["b"]
		if len(a) != minutesPerDay || a[1] != 1 || a[2] != 1 || len(b) != minutesPerDay || b[1] != 1 {
			t.Errorf("%s: a has %v, b has %v of %d minutes", name, a[:4], b[:4], len(a))
		}
	}
}

// TestReadTraceOfLongerCounts spreads what was counted in ten minutes over them.
func TestReadTraceOfLongerCounts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tens.csv")
	if err := os.WriteFile(path, []byte("time,n\n2026-03-03T00:00:53Z,20\n2026-03-03T00:10:53Z,5\n2026-03-03T00:30:53Z,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tr, err := readTrace(path)
	if err != nil {
		t.Fatal(err)
	}
	want := append(slices.Repeat([]float64{2}, 10), slices.Repeat([]float64{0, 1}, 5)...)
	if got := tr.types["event"]; !slices.Equal(got[:20], want) || got[39] != 1 {
		t.Errorf("the minutes have %v and %v, want %v and 1", got[:20], got[39], want)
	}
}

func TestReadTraceSaysWhere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bad.csv")
	if err := os.WriteFile(path, []byte("time,type\n2026-03-03T00:01:00Z,a\nyesterday,a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readTrace(path); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("a wrong time says %v, want its line", err)
	}
}
