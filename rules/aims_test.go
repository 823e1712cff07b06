package rules_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDropsAreSeenInTime holds what docs/detection.md promises of steady traffic: six tenths of 500 events an hour and seven tenths of 200
// are missed within half an hour, and all of 20 within an hour and a half. make bench-score has the rest.
func TestDropsAreSeenInTime(t *testing.T) {
	t.Parallel()
	var (
		random = rand.New(rand.NewPCG(1, 2))
		start  = history + 2*minutesPerDay + 10*60
		s      = span{start - 30, start + 120}
		limits = map[string]int{}
		lanes  []*lane
		w      = newWorld(t)
	)
	for _, c := range []struct {
		perHour, part float64
		limit         int
	}{{500, 0.6, 30}, {200, 0.7, 30}, {1000, 1, 15}, {20, 1, 120}} {
		for i := range 3 {
			counts := steady(c.perHour/season(start))(random, s.to+1)
			drop(random, counts, span{start, s.to}, c.part)
			name := fmt.Sprintf("%g/h %d", c.perHour, i)
			limits[name] = c.limit
			lanes = append(lanes, &lane{name: name, counts: counts})
		}
	}
	seen := map[string]int{}
	for _, f := range w.play(judged(t), lanes, noLag, s) {
		if f.alert == "UsageActivityDropped" {
			seen[f.labels.Get("event_type")] = minuteOf(f.start) - start
		}
	}
	for name, limit := range limits {
		if after, ok := seen[name]; !ok || after < 0 || after > limit {
			t.Errorf("a drop of %s was told: %v, after %d minutes; want it within %d", name, ok, after, limit)
		}
	}
}

// TestNoFalseAlarms plays two days in which nothing happens, steady and with bursts.
func TestNoFalseAlarms(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	s := span{history, history + 2*minutesPerDay}
	var lanes []*lane
	for _, perHour := range []float64{5, 50, 500, 5000} {
		lanes = append(lanes, &lane{name: fmt.Sprintf("%g/h", perHour), counts: steady(perHour)(random, s.to+1)})
	}
	w := newWorld(t)
	for _, f := range w.play(judged(t), lanes, noLag, s) {
		t.Errorf("a false alarm: %v", f)
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
