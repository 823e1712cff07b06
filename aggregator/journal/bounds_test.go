package journal_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"usaged/aggregator/journal"
)

const boundsName = "bounds.json"

// remove deletes segments as an accident does.
func remove(t testing.TB, dir string, indexes ...int) {
	t.Helper()
	for _, index := range indexes {
		if err := os.Remove(wlog.SegmentName(dir, index)); err != nil {
			t.Fatal(err)
		}
	}
}

// missingSegments returns a copy of a journal without some of its segments.
func missingSegments(t testing.TB, whole files, indexes ...int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	whole.write(t, dir)
	remove(t, dir, indexes...)
	return dir
}

func TestMissingSegmentsAreDamage(t *testing.T) {
	t.Parallel()
	closed, all, _ := threeSegments(t)
	whole := readFiles(t, closed)
	for name, c := range map[string]struct {
		missing     []int
		first       int // missing segment
		from, until uint64
	}{
		"the oldest":     {[]int{0}, 0, 1, 30},
		"the oldest two": {[]int{0, 1}, 0, 1, 60},
		"all but one":    {[]int{0, 1, 3}, 0, 1, 60},
		"the newest":     {[]int{3}, 3, 91, 93},
		"the newest two": {[]int{2, 3}, 2, 61, 93},
		"all":            {[]int{0, 1, 2, 3}, 0, 1, 93},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := missingSegments(t, whole, c.missing...)
			wantDamage(t, dir, journal.DamageError{Dir: dir, Segment: c.first, First: c.from, Last: c.until})
			report, err := journal.Repair(dir)
			if err != nil || len(report) != len(c.missing) {
				t.Fatalf("Repair: %+v, %v", report, err)
			}
			missing := map[uint64]bool{}
			for _, r := range report {
				if r.Original != "" {
					t.Errorf("segment %d: the original is said to be %s, want none", r.Segment, r.Original)
				}
				for _, lost := range r.Lost {
					for seq := lost.First; seq <= lost.Last; seq++ {
						missing[seq] = true
					}
				}
			}
			if again, err := journal.Repair(dir); err != nil || len(again) > 0 {
				t.Errorf("a second Repair found %+v, %v", again, err)
			}
			checkRepaired(t, dir, all, missing)
		})
	}
}

// TestMissingNewestSegmentAfterACrash loses a segment of which it is not known how many events it had.
func TestMissingNewestSegmentAfterACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Config{Dir: dir})
	all := numbered(t, j, 10)
	after := uint64(len(all))
	roll(t, j)
	mustAppend(t, j, "lost")
	dir = missingSegments(t, readFiles(t, dir), 1)
	wantDamage(t, dir, journal.DamageError{Dir: dir, Segment: 1, First: after + 1})
	r, err := journal.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if _, ok := errors.AsType[*journal.DamageError](err); !ok {
		t.Errorf("a reader ends with %v, want a DamageError", err)
	}
	r.Close()
	report, err := journal.Repair(dir)
	if err != nil || len(report) != 1 || len(report[0].Lost) != 1 || report[0].Lost[0] != (journal.Range{First: after + 1}) {
		t.Fatalf("Repair: %+v, %v; want events from %d on to be lost", report, err, after+1)
	}
	checkRepaired(t, dir, all, nil)
}

func TestRecordsMissingBehindACleanStopAreDamage(t *testing.T) {
	t.Parallel()
	closed, all, ends := threeSegments(t)
	whole := readFiles(t, closed)
	for name, keep := range map[string]int64{"all of the last record": ends[92], "a part of it": ends[92] + 100} {
		dir := t.TempDir()
		whole.with(segmentName(3), whole[segmentName(3)][:keep]).write(t, dir)
		wantDamage(t, dir, journal.DamageError{Dir: dir, Segment: 3, Offset: ends[92], First: 93, Last: 93})
		if _, err := journal.Repair(dir); err != nil {
			t.Fatalf("%s: Repair: %v", name, err)
		}
		checkRepaired(t, dir, all, map[uint64]bool{93: true})
	}
}

func TestReaderFromOutsideMissesTheOldestSegment(t *testing.T) {
	t.Parallel()
	closed, all, _ := threeSegments(t)
	dir := missingSegments(t, readFiles(t, closed), 0)
	events, gap, errs := readThrough(t, func() (*journal.Reader, error) { return journal.OpenReader(dir) })
	if len(events) != len(all)-30 || gap != 30 || len(errs) > 0 {
		t.Errorf("%d events, a gap of %d and %v; want %d and 30", len(events), gap, errs, len(all)-30)
	}
}

func TestSegmentsRemovedInGoodOrderAreNotMissed(t *testing.T) {
	t.Parallel()
	dir, all, _ := threeSegments(t)
	j := open(t, journal.Config{Dir: dir})
	for through := range 3 {
		if err := j.Remove(through); err != nil {
			t.Fatalf("Remove: %v", err)
		}
		copied := t.TempDir()
		readFiles(t, dir).write(t, copied) // as if there were a crash now
		c := open(t, journal.Config{Dir: copied})
		if c.Start() != uint64(30*through+31) || c.End() != uint64(len(all)) {
			t.Errorf("Start, End are %d, %d behind Remove(%d)", c.Start(), c.End(), through)
		}
		if report, err := journal.Repair(copied); err != nil || len(report) > 0 {
			t.Errorf("Repair behind Remove(%d) found %+v, %v", through, report, err)
		}
	}
}

// TestInterruptedRemove opens journals in which a crash has left segments that Remove was to delete.
func TestInterruptedRemove(t *testing.T) {
	t.Parallel()
	dir, all, _ := threeSegments(t)
	whole := readFiles(t, dir)
	j := open(t, journal.Config{Dir: dir})
	if err := j.Remove(2); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	removed := readFiles(t, dir)
	for name, c := range map[string]struct {
		left  []int
		start uint64
	}{
		"none":               {nil, 91},
		"all":                {[]int{0, 1, 2}, 1},
		"the newer":          {[]int{1, 2}, 31},
		"the older":          {[]int{0, 1}, 91},
		"one before another": {[]int{0, 2}, 61},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			f := removed
			for _, index := range c.left {
				f = f.with(segmentName(index), whole[segmentName(index)])
			}
			f.write(t, dir)
			for range 2 {
				j := open(t, journal.Config{Dir: dir})
				if j.Start() != c.start {
					t.Errorf("it starts at %d, want %d", j.Start(), c.start)
				}
				events, _, gap := readAll(t, j, c.start-1)
				sameEvents(t, "events", events, all[c.start-1:])
				if gap > 0 {
					t.Errorf("a gap of %d", gap)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestJournalWithoutBounds opens a journal that is older than the file, or whose file is damaged: it gets one.
func TestJournalWithoutBounds(t *testing.T) {
	t.Parallel()
	closed, all, _ := threeSegments(t)
	whole := readFiles(t, closed)
	for name, data := range map[string][]byte{
		"absent": nil, "empty": {}, "a digit changed": []byte(strings.Replace(string(whole[boundsName]), "93", "83", 1)), "noise": []byte(noise(1, 200)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := missingSegments(t, whole.with(boundsName, data), 0) // not to be told from a removal
			if data == nil {
				os.Remove(filepath.Join(dir, boundsName))
			}
			j := open(t, journal.Config{Dir: dir})
			events, _, _ := readAll(t, j, 30)
			sameEvents(t, "events", events, all[30:])
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			remove(t, dir, 1)
			wantDamage(t, dir, journal.DamageError{Dir: dir, Segment: 1, First: 31, Last: 60})
		})
	}
}

// TestRemoveOnAFullDisk makes room although the file that says what is kept cannot be written.
func TestRemoveOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(smallDisk(t, 1<<20), "journal")
	set := metrics.NewSet()
	j := open(t, journal.Config{Dir: dir, Metrics: set})
	removed := uint64(len(numbered(t, j, 100)))
	roll(t, j)
	if err := fillDisk(dir); err != nil {
		t.Fatal(err)
	}
	if err := j.Remove(0); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	end := j.End()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, journal.Config{Dir: dir})
	if j.Start() != removed+1 || j.End() != end {
		t.Errorf("Start, End are %d, %d, want %d, %d", j.Start(), j.End(), removed+1, end)
	}
}

// fillDisk takes all of the space that is left.
func fillDisk(dir string) error {
	f, err := os.Create(filepath.Join(filepath.Dir(dir), "filling"))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return nil // it is full
		}
	}
}
