package backfill_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"

	"usaged/aggregator"
	"usaged/exporter/backfill"
	"usaged/rules"
)

const (
	step      = 5 * time.Minute
	retention = 4 * 24 * time.Hour
)

// world is a journal and a Prometheus, and what is told to the one of the other.
type world struct {
	t testing.TB

	mu     sync.Mutex
	events map[string][]time.Time // when they were created, by type
	late   map[string][]time.Time // those of them that are late
	from   time.Time
	lateN  uint64
	fails  error
	hangs  chan struct{}

	recorded   map[string]backfill.Recorded // by metric
	cells      map[string]map[int64]float64 // what was written last, by series and time
	keepBefore time.Time
	runs       int
	derived    []string
}

func newWorld(t testing.TB) *world {
	return &world{t: t, events: map[string][]time.Time{}, late: map[string][]time.Time{}, recorded: map[string]backfill.Recorded{}}
}

func (w *world) add(eventType string, at time.Time, late bool) {
	w.events[eventType] = append(w.events[eventType], at)
	if late {
		w.late[eventType] = append(w.late[eventType], at)
	}
}

func (w *world) Past(ctx context.Context, cfg aggregator.PastConfig) (*aggregator.Past, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs++
	if w.hangs != nil {
		select {
		case <-w.hangs:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if w.fails != nil {
		return nil, w.fails
	}
	n := int(cfg.Until.Sub(cfg.Start) / cfg.Step)
	count := func(counts []uint32, times []time.Time) {
		for _, at := range times {
			if i := int((at.Sub(cfg.Start)+cfg.Step-1)/cfg.Step) - 1; at.After(cfg.Start) && i < n {
				counts[i]++
			}
		}
	}
	past := &aggregator.Past{PastConfig: cfg, Types: map[string]*aggregator.PastEvents{}, Late: make([]uint32, n), From: w.from}
	for eventType, times := range w.events {
		past.Types[eventType] = &aggregator.PastEvents{First: slices.MinFunc(times, time.Time.Compare), Counts: make([]uint32, n)}
		count(past.Types[eventType].Counts, times)
		count(past.Late, w.late[eventType])
		past.Events += uint64(len(times))
	}
	cfg.Progress(0, past.Events)
	return past, nil
}

func (w *world) LateEvents() (uint64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lateN, true
}

func (w *world) Accepted() uint64 { return 0 }

func (w *world) Wait(context.Context) error { return nil }

func (w *world) Recorded(_ context.Context, metric string, g backfill.Grid) (backfill.Recorded, error) {
	for _, cells := range w.recorded[metric] {
		if len(cells) != g.N {
			w.t.Errorf("a grid of %d cells, the test has %d", g.N, len(cells))
		}
	}
	return w.recorded[metric], nil
}

func (w *world) WritePast(_ context.Context, keepBefore time.Time, series iter.Seq[backfill.Series]) (samples uint64, err error) {
	w.keepBefore, w.cells = keepBefore, map[string]map[int64]float64{}
	for s := range series {
		cells := map[int64]float64{}
		for i, sample := range s.Samples {
			if i > 0 && s.Samples[i-1].At >= sample.At {
				w.t.Errorf("%s: samples are out of order", s.Labels)
			}
			cells[sample.At] = sample.Value
		}
		w.cells[s.Labels.String()] = cells
		samples += uint64(len(cells))
	}
	return samples, nil
}

func (w *world) DerivePast(_ context.Context, given, metrics []string, _ backfill.Grid) (uint64, error) {
	if !slices.Contains(given, "usage:activity:observed") {
		w.t.Errorf("%s are given", given)
	}
	w.derived = append(w.derived, metrics...)
	return 1, nil
}

func (w *world) ran() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.runs
}

// open opens a backfiller on a file, and runs it until the function is called.
func (w *world) open(path string) (b *backfill.Backfiller, stop func()) {
	w.t.Helper()
	b, err := backfill.Open(backfill.Config{
		Path: path, Source: w, Target: w, Retention: retention,
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx)
	}()
	return b, func() {
		cancel()
		<-done
	}
}

// once does one backfill.
func (w *world) once() backfill.State {
	w.t.Helper()
	b, stop := w.open(filepath.Join(w.t.TempDir(), "backfill.json"))
	defer stop()
	if err := b.Backfill(); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
	state := b.BackfillState()
	if state.Phase != backfill.Idle || state.Error != "" || state.Last == nil {
		w.t.Fatalf("state %+v", state)
	}
	return state
}

// grid is the one that a backfill at this moment uses.
func grid() backfill.Grid {
	until := time.Now().UTC().Add(-step).Truncate(step) // what is younger would be taken for the present
	n := int((retention + 24*time.Hour) / step)
	return backfill.Grid{Start: until.Add(-time.Duration(n) * step), Step: step, N: n}
}

func observed(eventType, window string) labels.Labels {
	return labels.FromStrings("__name__", "usage:activity:observed", "event_type", eventType, "window", window)
}

var lengths = map[string]time.Duration{"15m": 15 * time.Minute, "1h": time.Hour, "6h": 6 * time.Hour, "1d": 24 * time.Hour}

// TestWindowsAreThoseOfTheRules reads the shipped rules.
func TestWindowsAreThoseOfTheRules(t *testing.T) {
	t.Parallel()
	data, err := rules.FS.ReadFile("health.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Record string
				Labels map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	windows, records := map[string]bool{}, map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			records[r.Record] = true
			if r.Record == "usage:activity:observed" && r.Labels["window"] != "" {
				windows[r.Labels["window"]] = true
			}
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(lengths)), slices.Sorted(maps.Keys(windows))); diff != "" {
		t.Errorf("windows (-here +rules):\n%s", diff)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.add("a", time.Now().Add(-48*time.Hour), true)
		w.once()
		for _, metric := range append(w.derived, "usage:activity:quiet") {
			if !records[metric] {
				t.Errorf("no rule records %s", metric)
			}
		}
		if len(w.derived) == 0 {
			t.Error("nothing is derived")
		}
	})
}

// TestExactness compares every sample with a count of the events in the window before it.
func TestExactness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(7*time.Minute + 13*time.Second)
		w := newWorld(t)
		rnd := rand.New(rand.NewPCG(3, 4))
		g := grid()
		for _, eventType := range []string{"busy", "slow"} {
			begin := g.Start.Add(-time.Hour) // before all that is asked for
			if eventType == "slow" {
				begin = g.Start.Add(30 * time.Hour)
			}
			n := map[string]int{"busy": 2000, "slow": 12}[eventType]
			for range n {
				at := begin.Add(time.Duration(rnd.Int64N(int64(g.Until().Sub(begin)))))
				if rnd.IntN(5) == 0 {
					at = at.Truncate(step)
				}
				w.add(eventType, at, true)
			}
		}
		state := w.once()
		oldest := g.Until().Add(-retention)
		for name, length := range lengths {
			all := map[int64]float64{}
			for _, eventType := range []string{"busy", "slow"} {
				want := map[int64]float64{}
				first := slices.MinFunc(w.events[eventType], time.Time.Compare)
				for i := range g.N {
					at := time.UnixMilli(g.At(i))
					begin := at.Add(-length)
					if begin.Before(first) || begin.Before(g.Start) || at.Before(oldest) {
						continue
					}
					sum := 0.0
					for _, e := range w.events[eventType] {
						if e.After(begin) && !e.After(at) {
							sum++
						}
					}
					want[g.At(i)] = sum
					all[g.At(i)] += sum
				}
				if diff := cmp.Diff(want, w.cells[observed(eventType, name).String()]); diff != "" {
					t.Errorf("%s in %s (-want +got):\n%s", eventType, name, diff)
				}
			}
			if diff := cmp.Diff(all, w.cells[observed("__all__", name).String()]); diff != "" {
				t.Errorf("all in %s (-want +got):\n%s", name, diff)
			}
		}
		if len(w.cells) != 3*len(lengths) {
			t.Errorf("%d series", len(w.cells))
		}
		if r := state.Last; r.Events != 2012 || r.Types != 2 || !r.From.Equal(oldest) || !r.Until.Equal(g.Until()) {
			t.Errorf("report %+v", r)
		}
	})
}

// TestWhatWasRecordedStays has rules that recorded for some hours, then not, then again.
func TestWhatWasRecordedStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		g := grid()
		at := func(i int) time.Time { return time.UnixMilli(g.At(i)) }
		first, off, on := 500, 700, 1000 // cells: recorded in [first, off) and from on
		for i := 100; i < g.N; i++ {
			late := i < first || i >= 800 && i < 900 // imported
			w.add("a", at(i), late)
		}
		recorded := backfill.Recorded{}
		cells := recorded.Add(observed("a", "15m"), g)
		for i := range cells {
			cells[i] = i >= first && i < off || i >= on
		}
		w.recorded["usage:activity:observed"] = recorded
		w.once()
		got := w.cells[observed("a", "15m").String()]
		for i := range g.N {
			_, written := got[g.At(i)]
			// In the gap where something was imported, and three cells on it is still in the window.
			want := at(i).Compare(g.Until().Add(-retention)) >= 0 && i < first || i >= 800 && i < 902
			if written != want {
				t.Errorf("cell %d: written %v, want %v", i, written, want)
			}
		}
		if hours := w.cells[observed("a", "1h").String()]; len(hours) != int(retention/step)+1 {
			t.Errorf("%d samples of another window, where nothing was recorded", len(hours))
		}
	})
}

// TestQuietTimesAreLeftOut has one of a type, and one of all.
func TestQuietTimesAreLeftOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		g := grid()
		for i := range g.N {
			w.add("a", time.UnixMilli(g.At(i)), true)
			w.add("b", time.UnixMilli(g.At(i)), true)
		}
		recorded := backfill.Recorded{}
		recorded.Add(labels.FromStrings("__name__", "usage:activity:quiet", "event_type", "a"), g)[600] = true
		recorded.Add(labels.FromStrings("__name__", "usage:activity:quiet", "event_type", "__all__"), g)[900] = true
		w.recorded["usage:activity:quiet"] = recorded
		w.once()
		for _, tc := range []struct {
			series string
			cell   int
			want   float64
		}{
			{"a", 599, 12}, {"a", 600, -1}, {"a", 611, -1}, {"a", 612, 12}, {"a", 905, -1},
			{"b", 600, 12}, {"b", 900, -1}, {"b", 911, -1}, {"b", 912, 12},
			{"__all__", 599, 24}, {"__all__", 605, 12}, {"__all__", 905, -1}, {"__all__", 912, 24},
		} {
			got, ok := w.cells[observed(tc.series, "1h").String()][g.At(tc.cell)]
			if !ok {
				got = -1
			}
			if got != tc.want {
				t.Errorf("%s, cell %d: %v, want %v", tc.series, tc.cell, got, tc.want)
			}
		}
	})
}

// TestAJournalThatBeginsLater writes nothing of what it may not know, and keeps what was written.
func TestAJournalThatBeginsLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		g := grid()
		w.add("a", g.Start.Add(time.Hour), true)
		w.from = g.Start.Add(50 * time.Hour)
		state := w.once()
		if want := w.from.Add(24*time.Hour + step); !w.keepBefore.Equal(want) || !state.Last.From.Equal(want) || !state.Last.Known.Equal(w.from) {
			t.Errorf("it keeps what is before %v and writes from %v on, known since %v; want %v", w.keepBefore, state.Last.From, state.Last.Known, want)
		}
	})
}

// TestItRunsAfterAnImport has late events come, for some time, and for long.
func TestItRunsAfterAnImport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.add("a", time.Now().Add(-50*time.Hour), true)
		path := filepath.Join(t.TempDir(), "tsdb", "backfill.json")
		_, stop := w.open(path)
		late := func(pause time.Duration, times int) {
			for range times {
				w.mu.Lock()
				w.lateN++
				w.mu.Unlock()
				time.Sleep(pause)
			}
		}
		expect := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			if got := w.ran(); got != want {
				t.Fatalf("%s: %d backfills, want %d", what, got, want)
			}
		}
		time.Sleep(24 * time.Hour)
		expect("without late events", 0)
		late(time.Minute, 5)
		expect("while they come", 0)
		time.Sleep(90 * time.Second)
		expect("when no more come", 1)
		late(time.Second, 1)
		time.Sleep(5 * time.Minute)
		expect("soon after another", 1)
		time.Sleep(10 * time.Minute)
		expect("when it has rested", 2)
		time.Sleep(24 * time.Hour)
		expect("a day later", 2)
		late(time.Minute, 60)
		if n := w.ran(); n < 4 || n > 6 {
			t.Errorf("%d backfills in an hour in which late events came all the time", n-2)
		}
		time.Sleep(time.Hour)
		before := w.ran()
		late(time.Second, 1)
		stop()
		_, stop = w.open(path)
		time.Sleep(10 * time.Minute)
		expect("after a restart", before+1)
		stop()
		_, stop = w.open(path)
		time.Sleep(time.Hour)
		expect("after another", before+1)
		stop()
	})
}

// TestItIsDoneInTheEnd fails, is asked while it runs, and is stopped.
func TestItIsDoneInTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fails = errors.New("no space left on device")
		path := filepath.Join(t.TempDir(), "backfill.json")
		b, stop := w.open(path)
		if err := b.Backfill(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if state := b.BackfillState(); state.Phase != backfill.Waiting || state.Error != w.fails.Error() || w.ran() < 3 {
			t.Errorf("after %d failures the state is %+v", w.ran(), state)
		}
		stop()
		w.fails, w.hangs = nil, make(chan struct{})
		b, stop = w.open(path) // what was asked for is still due
		time.Sleep(time.Minute)
		if err := b.Backfill(); err != nil { // it runs; this asks for another
			t.Fatal(err)
		}
		stop() // in the middle
		before := w.ran()
		b, stop = w.open(path)
		synctest.Wait()
		if err := b.Backfill(); err != nil {
			t.Fatal(err)
		}
		close(w.hangs)
		time.Sleep(time.Minute)
		if n := w.ran() - before; n != 2 {
			t.Errorf("%d backfills, want the one under way and the one that was asked for meanwhile", n)
		}
		if state := b.BackfillState(); state.Phase != backfill.Idle || state.Error != "" {
			t.Errorf("state %+v", state)
		}
		stop()
	})
}

func ExampleGrid() {
	g := backfill.Grid{Start: time.Unix(0, 0), Step: 5 * time.Minute, N: 12}
	fmt.Println(time.UnixMilli(g.At(0)).UTC().Format(time.TimeOnly), g.Until().UTC().Format(time.TimeOnly))
	fmt.Println(g.Cell(300_000), g.Cell(300_001), g.Cell(0))
	// Output:
	// 00:05:00 01:00:00
	// 0 1 -1
}
