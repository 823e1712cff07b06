package journal_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/prometheus/tsdb/wlog"

	"usaged/aggregator/journal"
)

func TestRepairKeepsEveryWholeRecord(t *testing.T) {
	t.Parallel()
	dir, all, ends := threeSegments(t)
	whole := readFiles(t, dir)
	type ranges = []journal.Range
	for name, c := range map[string]struct {
		damaged map[int][]byte
		lost    map[int]ranges // by segment
	}{
		"nothing": {},
		"one record": {
			map[int][]byte{1: flip(whole[segmentName(1)], ends[40]+100)},
			map[int]ranges{1: {{41, 41}}}},
		"the length of a fragment": {
			map[int][]byte{1: flip(whole[segmentName(1)], ends[40]+1)},
			map[int]ranges{1: {{41, 41}}}},
		"several places": {
			map[int][]byte{1: flip(zero(whole[segmentName(1)], ends[50], ends[52]-1), ends[40]+100)},
			map[int]ranges{1: {{41, 41}, {51, 52}}}},
		"the end of a segment": {
			map[int][]byte{1: whole[segmentName(1)][:ends[55]+30]},
			map[int]ranges{1: {{56, 60}}}},
		"a whole segment": {
			map[int][]byte{1: []byte(noise(5, 50_000))},
			map[int]ranges{1: {{31, 60}}}},
		"the beginning of the first segment": {
			map[int][]byte{0: zero(whole[segmentName(0)], 0, ends[3]-1)},
			map[int]ranges{0: {{1, 3}}}},
		"two segments in a row": {
			map[int][]byte{1: whole[segmentName(1)][:ends[55]], 2: zero(whole[segmentName(2)], 0, ends[62]-1)},
			map[int]ranges{1: {{56, 62}}, 2: nil}},
		"the last segment": {
			map[int][]byte{3: flip(whole[segmentName(3)], ends[91]+100)},
			map[int]ranges{3: {{92, 92}}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			f := whole
			for index, data := range c.damaged {
				f = f.with(segmentName(index), data)
			}
			f.write(t, dir)
			report, err := journal.Repair(dir)
			if err != nil {
				t.Fatalf("Repair: %v", err)
			}
			checkReport(t, dir, report, c.damaged, c.lost)
			missing := map[uint64]bool{}
			for _, lost := range c.lost {
				for _, r := range lost {
					for seq := r.First; seq <= r.Last; seq++ {
						missing[seq] = true
					}
				}
			}
			checkRepaired(t, dir, all, missing)
			again, err := journal.Repair(dir)
			if err != nil || len(again) > 0 {
				t.Errorf("a second Repair found %+v, %v", again, err)
			}
		})
	}
}

func checkReport(t *testing.T, dir string, report []journal.RepairedSegment, damaged map[int][]byte, lost map[int][]journal.Range) {
	t.Helper()
	if len(report) != len(damaged) {
		t.Fatalf("Repair replaced %+v, want %d segments", report, len(damaged))
	}
	for _, r := range report {
		if !reflect.DeepEqual(r.Lost, lost[r.Segment]) {
			t.Errorf("segment %d: lost %v, want %v", r.Segment, r.Lost, lost[r.Segment])
		}
		if want := filepath.Join(dir, "damaged", segmentName(r.Segment)); r.Original != want {
			t.Errorf("segment %d: the original is said to be %s, want %s", r.Segment, r.Original, want)
		}
		original, err := os.ReadFile(r.Original)
		if err != nil || !bytes.Equal(original, damaged[r.Segment]) {
			t.Errorf("segment %d: the original is not what it was (%v)", r.Segment, err)
		}
	}
}

// checkRepaired opens a repaired journal and checks that all but the missing events are there, and go on.
func checkRepaired(t *testing.T, dir string, all []event, missing map[uint64]bool) {
	t.Helper()
	var log bytes.Buffer
	j := open(t, journal.Config{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	var want []event
	for _, e := range all {
		if !missing[e.seq] {
			want = append(want, e)
		}
	}
	events, _, gap := readAll(t, j, 0)
	sameEvents(t, "events", events, want)
	if gap != uint64(len(missing)) {
		t.Errorf("a gap of %d, want %d", gap, len(missing))
	}
	if strings.Contains(log.String(), "ERROR") {
		t.Errorf("a repaired gap was logged: %s", &log)
	}
	for seq := range missing {
		events, _, gap := readAll(t, j, seq)
		if len(events)+int(gap) != len(all)-int(seq) {
			t.Errorf("behind event %d: %d events and a gap of %d, want %d in all", seq, len(events), gap, len(all)-int(seq))
		}
	}
	if first := mustAppend(t, j, "next"); first != uint64(len(all)+1) {
		t.Errorf("the next event got number %d, want %d", first, len(all)+1)
	}
}

func TestRepairFillsInAMissingSegment(t *testing.T) {
	t.Parallel()
	dir, all, _ := threeSegments(t)
	if err := os.Remove(wlog.SegmentName(dir, 1)); err != nil {
		t.Fatal(err)
	}
	report, err := journal.Repair(dir)
	if err != nil || len(report) != 1 || report[0].Original != "" {
		t.Fatalf("Repair: %+v, %v", report, err)
	}
	missing := map[uint64]bool{}
	for seq := range uint64(30) {
		missing[seq+31] = true
	}
	checkRepaired(t, dir, all, missing)
}

func TestRepairTakesUpWhereItWasInterrupted(t *testing.T) {
	t.Parallel()
	dir, all, ends := threeSegments(t)
	name := wlog.SegmentName(dir, 1)
	damaged := flip(readFiles(t, dir)[segmentName(1)], ends[40]+100)
	if err := os.WriteFile(name, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	// It had set the original aside and was writing the replacement; and an older repair had set aside another.
	for path, data := range map[string]string{"repair.tmp/00000000": "half", "damaged/00000001": "older"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(name, filepath.Join(dir, "damaged", segmentName(1)+".1")); err != nil {
		t.Fatal(err)
	}
	report, err := journal.Repair(dir)
	if err != nil || len(report) != 1 || !strings.HasSuffix(report[0].Original, segmentName(1)+".1") {
		t.Fatalf("Repair: %+v, %v", report, err)
	}
	checkRepaired(t, dir, all, map[uint64]bool{41: true})
}

func TestRepairLeavesATornTail(t *testing.T) {
	t.Parallel()
	c := crash(t, 10, "last")
	dir := t.TempDir()
	whole := c.files[segmentName(0)]
	c.with(segmentName(0), whole[:len(whole)-1]).write(t, dir)
	if report, err := journal.Repair(dir); err != nil || len(report) > 0 {
		t.Errorf("Repair: %+v, %v, want nothing", report, err)
	}
}

func TestReaderReportsDamageAtRunTime(t *testing.T) {
	t.Parallel()
	dir, all, ends := threeSegments(t)
	set := metrics.NewSet()
	var log bytes.Buffer
	j := open(t, journal.Config{Dir: dir, Metrics: set, Log: slog.New(slog.NewTextHandler(&log, nil))})
	f := readFiles(t, dir)
	f.with(segmentName(1), flip(flip(f[segmentName(1)], ends[40]+100), ends[59]+100)).write(t, dir)
	for range 2 {
		events, _, gap := readAll(t, j, 0)
		want := append(append([]event(nil), all[:40]...), all[41:59]...)
		sameEvents(t, "events", events, append(want, all[60:]...))
		if gap != 2 {
			t.Errorf("a gap of %d, want 2", gap)
		}
	}
	if n := set.GetOrCreateCounter("usaged_journal_damaged_events_total").Get(); n != 2 {
		t.Errorf("%d damaged events counted, want 2", n)
	}
	if n := strings.Count(log.String(), "journal is damaged"); n != 2 {
		t.Errorf("damage was logged %d times, want 2:\n%s", n, &log)
	}
	r, err := journal.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, _, gap := drain(t, r, 0); gap != 2 {
		t.Errorf("OpenReader: a gap of %d, want 2", gap)
	}
}

func TestRepairOfNothing(t *testing.T) {
	t.Parallel()
	if report, err := journal.Repair(t.TempDir()); err != nil || len(report) > 0 {
		t.Errorf("Repair of an empty directory: %+v, %v", report, err)
	}
	if _, err := journal.Repair(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Repair of no directory: got %v", err)
	}
}
