package journal_test

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"usaged/aggregator/journal"
)

// numbered fills a journal with n events in records of several sizes and returns them.
func numbered(t testing.TB, j *journal.Journal, n int) []event {
	t.Helper()
	var all []event
	for len(all) < n {
		var entries []string
		for range 1 + len(all)%9 {
			e := event{uint64(len(all) + 1), noise(len(all), 50+len(all)*37%3000)}
			all = append(all, e)
			entries = append(entries, e.data)
		}
		if first := mustAppend(t, j, entries...); first != all[len(all)-len(entries)].seq {
			t.Fatalf("Append gave number %d, want %d", first, all[len(all)-len(entries)].seq)
		}
	}
	return all
}

func TestReaderBeginsBehindAnyEvent(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir(), SegmentBytes: 256 << 10})
	all := numbered(t, j, 600)
	for after := 0; after <= len(all); after += 1 + after%5 {
		events, _, gap := readAll(t, j, uint64(after))
		sameEvents(t, fmt.Sprintf("events behind %d", after), events, all[after:])
		if gap != 0 {
			t.Errorf("behind %d: a gap of %d", after, gap)
		}
	}
	if _, err := j.Reader(uint64(len(all) + 1)); err == nil || errors.Is(err, journal.ErrGone) {
		t.Errorf("Reader behind an event that doesn't exist: got %v, want an error other than ErrGone", err)
	}
	if err := j.Remove(0); err != nil {
		t.Fatal(err)
	}
	start := j.Start()
	if _, err := j.Reader(start - 2); !errors.Is(err, journal.ErrGone) {
		t.Errorf("Reader before the start: got %v, want ErrGone", err)
	}
	events, _, _ := readAll(t, j, start-1)
	sameEvents(t, "events from the start", events, all[start-1:])
}

func TestReaderBeginsCloseToTheEvent(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir()})
	all := numbered(t, j, 3000)
	r, err := j.Reader(uint64(len(all)) - 10)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if behind := j.Segments()[0].Bytes - r.Offset(); behind > 100<<10 {
		t.Errorf("the reader begins %d bytes before the end", behind)
	}
}

func TestReaderReturnsNotesInPlace(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir()})
	note := func(s string) {
		if err := j.Note([]byte(s)); err != nil {
			t.Fatalf("Note: %v", err)
		}
	}
	note("before 1")
	mustAppend(t, j, "a", "", "c") // the second is blank
	note("before 4")
	roll(t, j)
	note("before 4 too")
	mustAppend(t, j, "d")
	note("")
	all := []event{{1, "before 1"}, {4, "before 4"}, {4, "before 4 too"}, {5, ""}}
	for after, want := range map[uint64][]event{0: all, 1: all[1:], 2: all[1:], 3: all[1:], 4: all[3:]} {
		events, notes, _ := readAll(t, j, after)
		sameEvents(t, fmt.Sprintf("notes behind %d", after), notes, want)
		sameEvents(t, fmt.Sprintf("events behind %d", after), events, []event{{1, "a"}, {2, ""}, {3, "c"}, {4, "d"}}[after:])
	}
}

func TestReaderFollowsAppends(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir(), SegmentBytes: 128 << 10})
	const senders, each = 16, 100
	var wg sync.WaitGroup
	for range 3 {
		r, err := j.Reader(0)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { follow(t, j, r, senders*each) })
	}
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				if _, err := j.Append(batch(noise(s*each+i, 600))); err != nil {
					t.Errorf("Append: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// follow reads until it has seen so many events, and checks that they come in order and not before they are durable.
func follow(t *testing.T, j *journal.Journal, r *journal.Reader, events uint64) {
	defer r.Close()
	for next := uint64(1); next <= events; {
		changed := j.Changed()
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			<-changed
			continue
		}
		if err != nil {
			t.Errorf("Next: %v", err)
			return
		}
		if end := j.End(); rec.First != next || rec.First+uint64(rec.N)-1 > end {
			t.Errorf("got record %d+%d, want %d and no more than %d", rec.First, rec.N, next, end)
			return
		}
		next += uint64(rec.N)
	}
}

func TestReaderFinishesARemovedSegment(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir()})
	mustAppend(t, j, "a")
	r, err := j.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if rec, err := r.Next(); err != nil || rec.First != 1 {
		t.Fatalf("Next: %v, %v", rec, err)
	}
	mustAppend(t, j, "b") // the reader has not been told how far the segment goes
	roll(t, j)
	mustAppend(t, j, "c")
	if err := j.Remove(0); err != nil {
		t.Fatal(err)
	}
	events, _, gap := drain(t, r, 0)
	sameEvents(t, "events", events, []event{{2, "b"}, {3, "c"}})
	if gap != 0 {
		t.Errorf("a gap of %d", gap)
	}
}

func TestReaderLeftBehindIsTold(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir()})
	mustAppend(t, j, "a")
	r, err := j.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		roll(t, j)
		mustAppend(t, j, "b")
	}
	if err := j.Remove(1); err != nil {
		t.Fatal(err)
	}
	if rec, err := r.Next(); err != nil || rec.First != 1 {
		t.Fatalf("Next: %v, %v, want event 1", rec, err)
	}
	if _, err := r.Next(); !errors.Is(err, journal.ErrGone) {
		t.Errorf("Next: got %v, want ErrGone", err)
	}
}

func TestOpenReaderFollowsAJournalFromOutside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := journal.OpenReader(dir); err == nil {
		t.Error("OpenReader found a journal in an empty directory")
	}
	j := open(t, journal.Config{Dir: dir, SegmentBytes: 64 << 10})
	r, err := journal.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all := numbered(t, j, 50)
	events, _, _ := drain(t, r, 0)
	sameEvents(t, "events", events, all)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, journal.Config{Dir: dir})
	mustAppend(t, j, "more")
	events, _, gap := drain(t, r, 0)
	sameEvents(t, "events behind a restart", events, []event{{j.End(), "more"}})
	if gap != 0 {
		t.Errorf("a gap of %d", gap)
	}
	again, err := journal.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if rec, err := again.Next(); err != nil || rec.Producer != j.ID() {
		t.Errorf("Next: producer %q, %v, want %q", rec.Producer, err, j.ID())
	}
}

func TestEachDoesNotAllocate(t *testing.T) {
	j := open(t, journal.Config{Dir: t.TempDir()})
	if _, err := j.Append(batchOf(1000, 200)); err != nil {
		t.Fatal(err)
	}
	r, err := j.Reader(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rec, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	bytes := 0
	allocs := testing.AllocsPerRun(10, func() {
		for _, entry := range rec.Each {
			bytes += len(entry)
		}
	})
	if allocs > 0 || bytes == 0 {
		t.Errorf("%v allocations for %d bytes, want none", allocs, bytes)
	}
}
