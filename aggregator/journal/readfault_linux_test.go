package journal_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"usaged/aggregator/journal"
	"usaged/aggregator/journal/faultdisk"
)

// asks reports whether a call asks for something, and changes nothing.
func asks(op faultdisk.Op) bool {
	return op == faultdisk.Open || op == faultdisk.Read || op == faultdisk.ReadDir || op == faultdisk.Stat
}

// failNth lets the n-th call of the given kind fail with EIO, counted from 0, and returns whether there has been one.
func failNth(d *faultdisk.Disk, kind func(faultdisk.Op) bool, n int64) (met func() bool) {
	var calls atomic.Int64
	d.Intercept(func(c *faultdisk.Call) syscall.Errno {
		if kind(c.Op) && calls.Add(1) == n+1 {
			return syscall.EIO
		}
		return 0
	})
	return func() bool { return calls.Load() > n }
}

// tornJournal puts two segments and a torn tail onto the disk, and returns the events in front of it.
func tornJournal(t *testing.T, d *faultdisk.Disk) []event {
	t.Helper()
	dir := t.TempDir()
	j := open(t, journal.Config{Dir: dir})
	var all []event
	for i := range 12 {
		if i == 6 {
			roll(t, j)
		}
		all = append(all, event{uint64(i + 1), noise(i, 9_000)})
		mustAppend(t, j, all[i].data)
	}
	end := j.Segments()[1].Bytes
	mustAppend(t, j, noise(99, 40_000))
	f := readFiles(t, dir)
	f[segmentName(1)] = f[segmentName(1)][:end+37_000]
	f.write(t, d.Real)
	return all
}

// wantReadError checks that an error says that reading failed, and nothing about the content.
func wantReadError(t *testing.T, what string, n int64, err error) {
	t.Helper()
	if _, ok := errors.AsType[*journal.ReadError](err); !ok || !errors.Is(err, syscall.EIO) {
		t.Errorf("%s with read %d failing: got %v, want a ReadError of EIO", what, n, err)
	}
}

// sameFiles checks that the segments in a directory are as they were.
func sameFiles(t *testing.T, what string, n int64, dir string, want files) {
	t.Helper()
	got := readFiles(t, dir)
	for name, data := range want {
		if !bytes.Equal(got[name], data) {
			t.Errorf("%s with read %d failing changed %s", what, n, name)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s with read %d failing: %d files, want %d", what, n, len(got), len(want))
	}
}

func TestReadErrorAtOpenChangesNothing(t *testing.T) {
	t.Parallel()
	d := faultdisk.Mount(t)
	all := tornJournal(t, d)
	torn := readFiles(t, d.Real)
	refused := 0
	for n := int64(0); ; n++ {
		torn.write(t, d.Real)
		met := failNth(d, asks, n)
		j, err := journal.Open(journal.Config{Dir: d.Dir})
		d.Heal()
		if _, damage := errors.AsType[*journal.DamageError](err); damage {
			t.Fatalf("Open with read %d failing: %v", n, err)
		}
		if err != nil {
			if len(readFiles(t, d.Real)[segmentName(1)]) == len(torn[segmentName(1)]) { // else it failed behind the cut
				wantReadError(t, "Open", n, err)
				sameFiles(t, "Open", n, d.Real, torn)
			}
			refused++
			if j, err = journal.Open(journal.Config{Dir: d.Dir}); err != nil {
				t.Fatalf("Open when the disk reads again: %v", err)
			}
		}
		events, _, gap := readAll(t, j, 0)
		sameEvents(t, "events", events, all)
		if gap > 0 {
			t.Errorf("read %d failing left a gap of %d", n, gap)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		removeSegmentsBehind(t, d.Real, 1)
		if !met() {
			break
		}
	}
	if refused < 20 {
		t.Errorf("%d reads failed, want some 20 at least", refused)
	}
}

func TestReadErrorOfAReaderIsNoGap(t *testing.T) {
	t.Parallel()
	d := faultdisk.Mount(t)
	all := tornJournal(t, d)
	j := open(t, journal.Config{Dir: d.Dir})
	t.Cleanup(d.Heal)
	for name, begin := range map[string]func() (*journal.Reader, error){
		"a live reader":        func() (*journal.Reader, error) { return j.Reader(0) },
		"a reader from behind": func() (*journal.Reader, error) { return j.Reader(3) },
		"a reader of the files": func() (*journal.Reader, error) {
			return journal.OpenReader(d.Dir)
		},
	} {
		failed := 0
		for n := int64(0); ; n++ {
			met := failNth(d, asks, n)
			events, gap, errs := readThrough(t, begin)
			for _, err := range errs {
				wantReadError(t, name, n, err)
			}
			want := all
			if name == "a reader from behind" {
				want = all[3:]
			}
			sameEvents(t, name, events[len(events)-len(want):], want)
			if gap > 0 {
				t.Errorf("%s: read %d failing left a gap of %d", name, n, gap)
			}
			failed += len(errs)
			if !met() {
				break
			}
		}
		if failed < 4 {
			t.Errorf("%s: %d reads failed, want several", name, failed)
		}
	}
}

// readThrough reads to the end, and again after each error.
func readThrough(t *testing.T, begin func() (*journal.Reader, error)) (events []event, gap uint64, errs []error) {
	t.Helper()
	r, err := begin()
	for ; err != nil; r, err = begin() {
		if errs = append(errs, err); len(errs) > 5 {
			t.Fatalf("reading fails again and again: %v", err)
		}
	}
	defer r.Close()
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return events, gap, errs
		}
		if err != nil {
			if errs = append(errs, err); len(errs) > 5 {
				t.Fatalf("reading fails again and again: %v", err)
			}
			continue
		}
		gap += rec.Gap
		for seq, entry := range rec.Each {
			events = append(events, event{seq, string(entry)})
		}
	}
}

func TestReadErrorStopsARepair(t *testing.T) {
	t.Parallel()
	d := faultdisk.Mount(t)
	all := tornJournal(t, d)
	damaged := readFiles(t, d.Real)
	damaged[segmentName(0)] = flip(damaged[segmentName(0)], 20_000)
	for n := int64(0); ; n++ {
		damaged.write(t, d.Real)
		met := failNth(d, asks, n)
		report, err := journal.Repair(d.Dir)
		d.Heal()
		if err != nil {
			if len(report) == 0 && bytes.Equal(readFiles(t, d.Real)[segmentName(0)], damaged[segmentName(0)]) {
				sameFiles(t, "Repair", n, d.Real, damaged)
			}
			if _, err = journal.Repair(d.Dir); err != nil {
				t.Fatalf("Repair when the disk reads again: %v", err)
			}
		}
		events, gap, _ := readThrough(t, func() (*journal.Reader, error) { return journal.OpenReader(d.Real) })
		if gap != 1 || len(events) != len(all)-1 {
			t.Fatalf("Repair with read %d failing left %d events and a gap of %d, want %d and 1", n, len(events), gap, len(all)-1)
		}
		removeSegmentsBehind(t, d.Real, 1)
		if !met() {
			break
		}
	}
}

// wrongBytes changes a byte of what the n-th read of a segment gives, or of every read from that one on.
func wrongBytes(d *faultdisk.Disk, n int64, always bool) (met func() bool) {
	var reads atomic.Int64
	d.Intercept(func(c *faultdisk.Call) syscall.Errno {
		if c.Op != faultdisk.Read || len(c.Data) == 0 || len(c.Name) != len(segmentName(0)) {
			return 0
		}
		if k := reads.Add(1); k == n+1 || always && k > n {
			c.Data[len(c.Data)-1-int(k)%20] ^= byte(k)
		}
		return 0
	})
	return func() bool { return reads.Load() > n }
}

func TestBytesReadWronglyOnceAreNoDamage(t *testing.T) {
	t.Parallel()
	d := faultdisk.Mount(t)
	all := tornJournal(t, d)
	torn := readFiles(t, d.Real)
	for n := int64(0); ; n++ {
		torn.write(t, d.Real)
		met := wrongBytes(d, n, false)
		j, err := journal.Open(journal.Config{Dir: d.Dir})
		d.Heal()
		if _, unsteady := errors.AsType[*journal.ReadError](err); unsteady {
			sameFiles(t, "Open", n, d.Real, torn)
			j, err = journal.Open(journal.Config{Dir: d.Dir})
		}
		if err != nil {
			t.Fatalf("Open with read %d wrong: %v", n, err)
		}
		events, _, gap := readAll(t, j, 0)
		sameEvents(t, "events", events, all)
		if err := j.Close(); err != nil || gap > 0 {
			t.Fatalf("Open with read %d wrong: %v, a gap of %d", n, err, gap)
		}
		removeSegmentsBehind(t, d.Real, 1)
		if !met() {
			break
		}
	}
	for n := int64(0); ; n++ {
		met := wrongBytes(d, n, false)
		events, gap, _ := readThrough(t, func() (*journal.Reader, error) { return journal.OpenReader(d.Dir) })
		d.Heal()
		sameEvents(t, "events of a reader", events, all)
		if gap > 0 {
			t.Errorf("read %d wrong left a gap of %d", n, gap)
		}
		if !met() {
			break
		}
	}
}

func TestBytesThatReadDifferentlyEachTimeAreRefused(t *testing.T) {
	t.Parallel()
	d := faultdisk.Mount(t)
	tornJournal(t, d)
	torn := readFiles(t, d.Real)
	wrongBytes(d, 0, true)
	_, err := journal.Open(journal.Config{Dir: d.Dir})
	d.Heal()
	if _, ok := errors.AsType[*journal.ReadError](err); !ok {
		t.Errorf("Open: got %v, want a ReadError", err)
	}
	sameFiles(t, "Open", 0, d.Real, torn)
}

func TestTornTailIsKept(t *testing.T) {
	t.Parallel()
	d := faultdisk.Mount(t)
	tornJournal(t, d)
	torn := readFiles(t, d.Real)[segmentName(1)]
	open(t, journal.Config{Dir: d.Real})
	kept := readFiles(t, filepath.Join(d.Real, "damaged"))
	if len(kept) != 1 {
		t.Fatalf("%d files in damaged/, want 1", len(kept))
	}
	for name, data := range kept {
		if !bytes.HasSuffix(torn, data) || len(data) < 37_000 || filepath.Ext(name) != ".torn" {
			t.Errorf("%s holds %d bytes, want the %d that were cut off", name, len(data), 37_000)
		}
	}
}
