package journal_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"go.uber.org/goleak"

	"usaged/aggregator/journal"
)

func TestMain(m *testing.M) {
	if os.Getenv(childDirEnv) != "" {
		os.Exit(childMain())
	}
	goleak.VerifyTestMain(m)
}

// open opens a journal that is closed at the end of the test, and logs to it.
func open(t testing.TB, cfg journal.Config) *journal.Journal {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	j, err := journal.Open(cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return j
}

// event is what a reader returned for one entry, or for a note (seq 0).
type event struct {
	seq  uint64
	data string
}

// drain reads up to the end, and returns the events behind after, the notes, and how many events are missing.
func drain(t testing.TB, r *journal.Reader, after uint64) (events, notes []event, gap uint64) {
	t.Helper()
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return events, notes, gap
		}
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		gap += rec.Gap
		if rec.Note != nil {
			notes = append(notes, event{rec.First, string(rec.Note)})
		}
		n := 0
		for seq, entry := range rec.Each {
			n++
			if seq > after {
				events = append(events, event{seq, string(entry)})
			}
		}
		if n != rec.N {
			t.Errorf("record at %d: Each called yield %d times, want %d", rec.First, n, rec.N)
		}
	}
}

func readAll(t testing.TB, j *journal.Journal, after uint64) (events, notes []event, gap uint64) {
	t.Helper()
	r, err := j.Reader(after)
	if err != nil {
		t.Fatalf("Reader(%d): %v", after, err)
	}
	defer r.Close()
	return drain(t, r, after)
}

func sameEvents(t testing.TB, what string, got, want []event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %d, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: [%d] is %d %.40q, want %d %.40q", what, i, got[i].seq, got[i].data, want[i].seq, want[i].data)
		}
	}
}

// batch makes a batch of the given entries.
func batch(entries ...string) journal.Batch {
	b := journal.Batch{N: len(entries)}
	for _, e := range entries {
		b.Entries = journal.AppendEntry(b.Entries, []byte(e))
	}
	return b
}

func mustAppend(t testing.TB, j *journal.Journal, entries ...string) uint64 {
	t.Helper()
	first, err := j.Append(batch(entries...))
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return first
}

// noise is text that doesn't compress, and differs for each n.
func noise(n, size int) string {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
	return string(b)
}

func TestAppendNumbersConcurrentBatches(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var committed []uint64 // written by the committer alone
	cfg := journal.Config{Dir: dir, SegmentBytes: 128 << 10, Committed: func(first uint64, b journal.Batch) {
		committed = append(committed, first)
		if _, ok := b.Tag.(int); !ok {
			t.Errorf("Committed got the tag %v", b.Tag)
		}
	}}
	j := open(t, cfg)
	var mu sync.Mutex
	var want []event
	var wg sync.WaitGroup
	for sender := range 32 {
		wg.Go(func() {
			for i := range 40 {
				n := (sender+i)%7 + 1
				b := journal.Batch{Tag: sender}
				var mine []event
				for k := range n {
					data := fmt.Sprintf("%d/%d/%d %s", sender, i, k, noise(sender*999+i*7+k, 100))
					b.N++
					b.Entries = journal.AppendEntry(b.Entries, []byte(data))
					mine = append(mine, event{data: data})
				}
				first, err := j.Append(b)
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				clear(b.Entries) // it is ours again
				if end := j.End(); end < first+uint64(n)-1 {
					t.Errorf("End is %d after Append returned %d for %d entries", end, first, n)
				}
				mu.Lock()
				for k := range mine {
					mine[k].seq = first + uint64(k)
				}
				want = append(want, mine...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(want, func(a, b event) int { return cmp.Compare(a.seq, b.seq) })
	for i, e := range want {
		if e.seq != uint64(i+1) {
			t.Fatalf("event number %d is missing or given twice", i+1)
		}
	}
	events, _, _ := readAll(t, j, 0)
	sameEvents(t, "events", events, want)
	if len(j.Segments()) < 2 {
		t.Error("the test wants several segments")
	}
	if err := j.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if !slices.IsSorted(committed) || len(committed) != 32*40 {
		t.Errorf("Committed was called %d times, in order: %v", len(committed), slices.IsSorted(committed))
	}
	events, _, _ = readAll(t, open(t, journal.Config{Dir: dir}), 0)
	sameEvents(t, "events after reopening", events, want)
}

func TestAppendRefusesWhatIsNotABatch(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir(), SegmentBytes: 64 << 10})
	for name, b := range map[string]journal.Batch{
		"no entries":             {},
		"fewer entries than N":   {N: 2, Entries: []byte{1, 'x'}},
		"more entries than N":    {N: 1, Entries: []byte{1, 'x', 1, 'y'}},
		"an entry cut short":     {N: 1, Entries: []byte{5, 'x'}},
		"a length cut short":     {N: 1, Entries: []byte{0x80}},
		"an overlong length":     {N: 1, Entries: slices.Repeat([]byte{0xff}, 12)},
		"a batch over a segment": batch(noise(1, 64<<10)),
	} {
		if _, err := j.Append(b); err == nil || errors.Is(err, journal.ErrUnavailable) {
			t.Errorf("Append of %s: got %v, want an error that says what is wrong", name, err)
		}
	}
	if err := j.Note(make([]byte, 64<<10)); err == nil {
		t.Error("Note accepted more than a segment")
	}
	largest := 64<<10 - 2*journal.FragmentHeaderBytes - journal.OpeningBytes - journal.HeaderBytes - 3
	if first := mustAppend(t, j, noise(2, largest)); first != 1 {
		t.Errorf("the largest batch got number %d, want 1", first)
	}
	mustAppend(t, j, noise(3, largest))
	if events, _, _ := readAll(t, j, 0); len(events) != 2 {
		t.Errorf("got %d events, want 2", len(events))
	}
}

func TestGroupsNeverCrossSegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Config{Dir: dir, SegmentBytes: 96 << 10})
	for i := range 300 {
		data := noise(i, 1+i*1237%40_000)
		if i%3 == 0 {
			data = strings.Repeat("x", len(data))
		}
		mustAppend(t, j, data)
		if i%50 == 0 {
			if err := j.Note([]byte("note")); err != nil {
				t.Fatalf("Note: %v", err)
			}
		}
	}
	if err := j.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	next := uint64(1)
	for _, s := range j.Segments() {
		if s.First != next {
			t.Errorf("segment %d begins with event %d, want %d", s.Index, s.First, next)
		}
		next = s.Last + 1
		if s.Bytes > 96<<10 {
			t.Errorf("segment %d has %d bytes", s.Index, s.Bytes)
		}
		// wlog finds nothing torn at the end of any segment, so no record goes on in the next.
		if _, err := wlogRecords(wlog.SegmentName(dir, s.Index)); err != nil {
			t.Errorf("wlog cannot read segment %d: %v", s.Index, err)
		}
	}
	if next != 301 {
		t.Errorf("the segments hold %d events, want 300", next-1)
	}
}

func TestNumberingGoesOnWhenEverythingIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, journal.Config{Dir: dir})
	mustAppend(t, j, "a", "b", "c")
	roll(t, j)
	if err := j.Note([]byte("verdict")); err != nil {
		t.Fatalf("Note: %v", err)
	}
	if err := j.Remove(0); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if j.Start() != 4 || j.End() != 3 {
		t.Errorf("Start, End are %d, %d, want 4, 3", j.Start(), j.End())
	}
	for i := range 3 {
		if err := j.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		j = open(t, journal.Config{Dir: dir})
		if j.Start() != 4 || j.End() != 3 {
			t.Errorf("reopened %d times: Start, End are %d, %d, want 4, 3", i+1, j.Start(), j.End())
		}
	}
	last := j.Segments()[len(j.Segments())-1].Index
	if err := j.Remove(last + 10); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if s := j.Segments(); len(s) != 1 || s[0].Index != last {
		t.Errorf("Segments after removing all: %+v, want segment %d alone", s, last)
	}
	if first := mustAppend(t, j, "d"); first != 4 {
		t.Errorf("the next event got number %d, want 4", first)
	}
	events, notes, gap := readAll(t, j, 3)
	sameEvents(t, "events", events, []event{{4, "d"}})
	if len(notes) > 0 || gap > 0 {
		t.Errorf("got notes %v and a gap of %d", notes, gap)
	}
}

func roll(t testing.TB, j *journal.Journal) {
	t.Helper()
	if err := j.Roll(); err != nil {
		t.Fatalf("Roll: %v", err)
	}
}

func TestRollDoesNothingWhenThereIsNothing(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir()})
	roll(t, j)
	roll(t, j)
	if n := len(j.Segments()); n != 1 {
		t.Errorf("%d segments, want 1", n)
	}
	mustAppend(t, j, "a")
	roll(t, j)
	roll(t, j)
	segments := j.Segments()
	if len(segments) != 2 || !segments[0].Sealed || segments[1].Sealed {
		t.Errorf("Segments: %+v, want a sealed one and an open one", segments)
	}
	if segments[0].First != 1 || segments[0].Last != 1 || segments[1].First != 2 || segments[1].Last != 1 {
		t.Errorf("Segments: %+v, want one event in the first", segments)
	}
}

func TestRestartsWithoutEventsLeaveNoSegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := time.UnixMilli(1_700_000_000_000)
	cfg := journal.Config{Dir: dir, Now: func() time.Time { return at }}
	j := open(t, cfg)
	mustAppend(t, j, "a")
	id := j.ID()
	for range 5 {
		if err := j.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		j = open(t, cfg)
		if j.ID() != id {
			t.Errorf("the id became %s, was %s", j.ID(), id)
		}
	}
	segments := j.Segments()
	if len(segments) != 2 {
		t.Errorf("%d segments, want 2: %+v", len(segments), segments)
	}
	if !segments[0].Newest.Equal(at) {
		t.Errorf("Newest is %v, want %v", segments[0].Newest, at)
	}
	if parsed, err := uuid.Parse(id); err != nil || parsed.Version() != 7 {
		t.Errorf("the id %s is no UUIDv7", id)
	}
}

func TestClosedJournalRefuses(t *testing.T) {
	t.Parallel()
	j := open(t, journal.Config{Dir: t.TempDir()})
	mustAppend(t, j, "a")
	if err := j.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
	for range 2 {
		if err := j.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if _, err := j.Append(batch("b")); !errors.Is(err, journal.ErrUnavailable) {
		t.Errorf("Append: got %v, want ErrUnavailable", err)
	}
	if err := j.Ready(); !errors.Is(err, journal.ErrUnavailable) {
		t.Errorf("Ready: got %v, want ErrUnavailable", err)
	}
	if events, _, _ := readAll(t, j, 0); len(events) != 1 {
		t.Errorf("a reader of the closed journal found %d events, want 1", len(events))
	}
}

func TestMetricsAreAllExplained(t *testing.T) {
	t.Parallel()
	set := metrics.NewSet()
	reg := prometheus.NewPedanticRegistry()
	for range 2 { // two lives in one process share the metrics
		j := open(t, journal.Config{Dir: t.TempDir(), Metrics: set, Registerer: reg})
		mustAppend(t, j, "a", "b")
		if err := j.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	for _, name := range set.ListMetricNames() {
		if journal.Help()[name] == "" {
			t.Errorf("%s has no help", name)
		}
	}
	if got, want := len(set.ListMetricNames()), len(journal.Help()); got != want {
		t.Errorf("%d metrics, but %d are explained", got, want)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "usaged_journal_commit_events" && f.GetMetric()[0].GetHistogram().GetSampleSum() != 4 {
			t.Errorf("commit events: %v, want a sum of 4", f)
		}
	}
	if len(families) != 2 {
		t.Errorf("%d histograms, want 2", len(families))
	}
}
