package embedded_test

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"usaged/exporter/backfill"
)

const step = 5 * time.Minute

// hours is a grid of so many hours up to now.
func hours(n int) backfill.Grid {
	until := time.Now().UTC().Truncate(step)
	return backfill.Grid{Start: until.Add(-time.Duration(n) * time.Hour), Step: step, N: n * int(time.Hour/step)}
}

// constant is a series with one value in every cell.
func constant(g backfill.Grid, value float64, name string, pairs ...string) backfill.Series {
	s := backfill.Series{Labels: labels.FromStrings(append([]string{"__name__", name}, pairs...)...)}
	for i := range g.N {
		s.Samples = append(s.Samples, backfill.Sample{At: g.At(i), Value: value})
	}
	return s
}

func (r *rig) writePast(keepBefore time.Time, series ...backfill.Series) uint64 {
	r.t.Helper()
	n, err := r.prom.WritePast(r.t.Context(), keepBefore, slices.Values(series))
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// value returns the only value of a query, "" where there is none.
func (r *rig) value(expr string) string {
	r.t.Helper()
	values := r.query(expr)
	if len(values) > 1 {
		r.t.Fatalf("%s has the values %v", expr, values)
	}
	for _, v := range values {
		return v
	}
	return ""
}

// want compares the only value of a query.
func (r *rig) want(expr, want string) {
	r.t.Helper()
	if got := r.value(expr); got != want {
		r.t.Errorf("%s is %s, want %s", expr, got, want)
	}
}

// pastBlocks returns the directories of the blocks that WritePast wrote.
func (r *rig) pastBlocks() (dirs []string) {
	r.t.Helper()
	metas, err := filepath.Glob(filepath.Join(r.cfg.Dir, "*", "meta.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, path := range metas {
		data, err := os.ReadFile(path)
		if err != nil {
			r.t.Fatal(err)
		}
		if strings.Contains(string(data), "from-selected-series") {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	return dirs
}

// scraped fills a TSDB that is not open with samples of a counter every minute.
func (r *rig) scraped(from, until time.Time, name string, pairs ...string) {
	r.t.Helper()
	opts := tsdb.DefaultOptions()
	opts.NoLockfile, opts.OutOfOrderTimeWindow = true, (48 * time.Hour).Milliseconds()
	db, err := tsdb.Open(r.cfg.Dir, nil, nil, opts, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	defer db.Close()
	db.DisableCompactions()
	series := labels.FromStrings(append([]string{"__name__", name}, pairs...)...)
	for t := from; t.Before(until); t = t.Add(time.Minute) {
		app := db.AppenderV2(r.t.Context())
		if _, err := app.Append(0, series, 0, t.UnixMilli(), 1, nil, nil, storage.AOptions{}); err != nil {
			r.t.Fatal(err)
		}
		if err := app.Commit(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// slow scrapes at the start and the end alone.
const slow = "global: {scrape_interval: 1h, evaluation_interval: 1h}\n"

// TestThePastIsReplaced writes the past twice, over live samples that reach into it, and compacts and restarts in between.
func TestThePastIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t, slow)
	now := time.Now()
	r.scraped(now.Add(-10*time.Hour), now, "live")
	r.start()
	// Of 600 the query sees some less where a minute lies on its edge.
	live := r.value("count_over_time(live[11h])")
	if live != "600" {
		t.Fatalf("%s live samples, want 600", live)
	}
	g := hours(30 * 24)
	check := func(what, value string) {
		t.Helper()
		r.want("avg_over_time(past[29d])", value)
		r.want("count_over_time(past[1d] offset 20d)", "288")
		r.want("count_over_time(live[11h])", live)
		if n := len(r.pastBlocks()); n != 1 {
			t.Errorf("%s: %d blocks of the past", what, n)
		}
	}
	if n := r.writePast(time.Time{}, constant(g, 1, "past")); n != uint64(g.N) {
		t.Errorf("%d samples, want %d", n, g.N)
	}
	check("written", "1")
	compact := func() {
		t.Helper()
		if err := r.prom.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	compact()
	if blocks, _ := filepath.Glob(filepath.Join(r.cfg.Dir, "01*")); len(blocks) < 3 {
		t.Fatalf("compaction left the blocks %v", blocks)
	}
	check("compacted", "1")
	r.writePast(time.Time{}, constant(g, 2, "past"))
	check("written again", "2")
	compact()
	r.stop(r.prom)
	r.start()
	check("restarted", "2")
	compact()
	r.writePast(time.Time{}, constant(g, 3, "past"))
	check("written after the restart", "3")
}

// TestThePastKeepsWhatIsNotKnownAnew has a second backfill which begins later.
func TestThePastKeepsWhatIsNotKnownAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t, slow)
	r.start()
	r.writePast(time.Time{}, constant(hours(40*24), 1, "past"))
	r.want("min(present_over_time(past[1h] offset 32d))", "1") // 40 days were asked for
	later := hours(10 * 24)
	r.writePast(later.Start.Add(step), constant(later, 2, "past"), constant(later, 7, "other"))
	r.want("count_over_time((past == 1)[21d:5m] offset 9d)", fmt.Sprint(20*288))
	r.want("min_over_time(past[10d])", "2")
	r.want("last_over_time(other[10m])", "7")
	r.want("count(present_over_time(past[1h] offset 32d))", "") // older than the retention
}

// TestRecordedLeavesOutThePast tells what rules have recorded from what was written.
func TestRecordedLeavesOutThePast(t *testing.T) {
	t.Parallel()
	r := newRig(t, slow)
	g := hours(24)
	from := g.Start.Add(20 * time.Hour)
	r.scraped(from, from.Add(time.Hour), "mixed")
	r.start()
	r.writePast(time.Time{}, constant(g, 1, "mixed"))
	for _, when := range []string{"in the head", "in a block"} {
		recorded, err := r.prom.Recorded(t.Context(), "mixed", g)
		if err != nil {
			t.Fatal(err)
		}
		cells := recorded.Of(labels.FromStrings("__name__", "mixed"))
		first, n := slices.Index(cells, true), 0
		for _, c := range cells {
			if c {
				n++
			}
		}
		// The hour begins with a sample on the edge, which is in the cell that ends there, and ends a minute before the next edge.
		if len(recorded) != 1 || first != 20*12-1 || n != 13 {
			t.Errorf("%s: %d series, cell %d is the first of %d; want 1, %d, 13", when, len(recorded), first, n, 20*12-1)
		}
		if err := r.prom.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAKilledBackfillLeavesNoHalf stops in the middle, and leaves what a kill leaves at each step.
func TestAKilledBackfillLeavesNoHalf(t *testing.T) {
	t.Parallel()
	r := newRig(t, slow)
	r.start()
	g := hours(24)
	r.writePast(time.Time{}, constant(g, 1, "past"))
	ctx, cancel := context.WithCancel(t.Context())
	series := iter.Seq[backfill.Series](func(yield func(backfill.Series) bool) {
		yield(constant(g, 2, "past"))
		cancel()
		yield(constant(g, 2, "other"))
	})
	if _, err := r.prom.WritePast(ctx, time.Time{}, series); err == nil {
		t.Error("a backfill that was stopped has no error")
	}
	r.want("max_over_time(past[1d])", "1")
	before := r.pastBlocks()
	r.stop(r.prom)

	// Killed while it collects and writes: a directory of chunks, and one that is no block yet.
	for _, dir := range []string{"past-chunks/chunks_head", "01JDAAAAAAAAAAAAAAAAAAAAAA.tmp-for-creation/chunks"} {
		if err := os.MkdirAll(filepath.Join(r.cfg.Dir, dir), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	r.want("max_over_time(past[1d])", "1")
	// Killed between the new block and the deletion of the old one, which is put back.
	saved := filepath.Join(t.TempDir(), "saved")
	if err := os.CopyFS(saved, os.DirFS(before[0])); err != nil {
		t.Fatal(err)
	}
	r.writePast(time.Time{}, constant(g, 2, "past"))
	r.stop(r.prom)
	if err := os.CopyFS(before[0], os.DirFS(saved)); err != nil {
		t.Fatal(err)
	}
	if n := len(r.pastBlocks()); n != 2 {
		t.Fatalf("%d blocks were prepared, want 2", n)
	}
	r.start()
	r.want("min_over_time(past[1d])", "2")
	if n := len(r.pastBlocks()); n != 1 {
		t.Errorf("%d blocks of the past", n)
	}
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), "tmp") || e.Name() == "past-chunks" {
			t.Errorf("%s is left", e.Name())
		}
	}
}

const derivations = `groups:
- name: derived
  rules:
  - {record: "t:limit", expr: vector(10)}
  - {record: "t:week", labels: {week: "1"}, expr: given offset 1h}
  - {record: "t:week", labels: {week: "2"}, expr: given offset 2h}
  - {record: "t:expected", expr: max by (event_type) (t:week) < scalar(t:limit)}
  - {record: "t:deviation", expr: given - on (event_type) t:expected}
`

// TestThePastIsDerivedByTheRules evaluates the rules in force over what was written.
func TestThePastIsDerivedByTheRules(t *testing.T) {
	t.Parallel()
	r := newRig(t, slow)
	r.cfg.Rules = fstest.MapFS{"derived.yml": {Data: []byte(derivations)}}
	g := hours(24)
	recordedAt := time.UnixMilli(g.At(15)).Add(-2 * time.Minute)
	r.scraped(recordedAt, recordedAt.Add(time.Minute), "t:deviation", "event_type", "a") // one sample, of 1
	r.start()
	given := backfill.Series{Labels: labels.FromStrings("__name__", "given", "event_type", "a")}
	for i := range g.N {
		given.Samples = append(given.Samples, backfill.Sample{At: g.At(i), Value: float64(i)})
	}
	r.writePast(time.Time{}, given)
	for range 2 { // the second finds what the first has written
		n, err := r.prom.DerivePast(t.Context(), []string{"given"}, []string{"t:expected", "t:deviation"}, g)
		if err != nil {
			t.Fatal(err)
		}
		// An hour ago it was 12 less, and the limit leaves ten of these. One of them was recorded. Given is there as before.
		if want := uint64(g.N + 10 + 9); n != want {
			t.Errorf("%d samples, want %d", n, want)
		}
		r.want("count_over_time(t:expected[1d])", "10")
		r.want("max_over_time(t:expected[1d])", "9")
		r.want(`sum_over_time(t:deviation{event_type="a"}[1d])`, fmt.Sprint(9*12+1))
		r.want("count_over_time(given[1d])", fmt.Sprint(g.N))
		r.want(`count(present_over_time(t:week[1d]))`, "") // what it was made of is not written
	}
}
