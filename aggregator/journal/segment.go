package journal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/prometheus/tsdb/wlog"
)

// Segment describes one file of the journal.
type Segment struct {
	Index int
	// First and Last are the numbers of its events. Last is First-1 where it holds none.
	First, Last uint64
	// Bytes is how much of the file holds durable records.
	Bytes int64
	// Newest is the stamp of the last record.
	Newest time.Time
	// Sealed is true where the segment will never grow.
	Sealed bool
}

// table is what is durable, as readers may know it.
type table struct {
	mu sync.RWMutex
	// segments are in order, and all but the last are sealed. It is empty only until Open has begun the first one.
	segments []Segment
	next     uint64 // the number that the next event gets
	bare     bool   // the last segment holds its opening mark only
	changed  chan struct{}

	removing sync.Mutex // held by remove; taken before mu
}

// init takes over what was found when the journal was opened. The last segment is sealed by begin: until then its end is the
// end of the journal.
func (t *table) init(segments []Segment, next uint64) {
	t.segments, t.next = segments, next
	if last := len(segments) - 1; last >= 0 {
		segments[last].Sealed = false
	}
}

// begin adds the segment that is written from now on. It holds its opening mark.
func (t *table) begin(index int, bytes int64, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := len(t.segments) - 1; last >= 0 {
		t.segments[last].Sealed = true
	}
	s := Segment{Index: index, First: t.next, Last: t.next - 1, Bytes: bytes, Newest: at}
	t.segments = append(t.segments, s)
	t.bare = true
	t.wake()
}

// grow publishes what has become durable in the last segment.
func (t *table) grow(bytes int64, events int, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.segments[len(t.segments)-1]
	t.next += uint64(events)
	s.Last, s.Bytes, s.Newest = t.next-1, bytes, at
	t.bare = false
	t.wake()
}

// notify tells the watchers of something that isn't in the table.
func (t *table) notify() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wake()
}

// wake tells the watchers. t.mu is held.
func (t *table) wake() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

func (t *table) watch() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

// current returns the last segment, and whether it holds its opening mark only.
func (t *table) current() (s Segment, bare bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.segments) == 0 {
		return Segment{Index: -1}, false
	}
	return t.segments[len(t.segments)-1], t.bare
}

func (t *table) list() []Segment {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clone(t.segments)
}

func (t *table) start() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.segments[0].First
}

func (t *table) end() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.next - 1
}

// sums returns the number of segments and the bytes in them.
func (t *table) sums() (segments int, bytes int64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range t.segments {
		bytes += s.Bytes
	}
	return len(t.segments), bytes
}

// find returns the segment with an index; ok is false where it was removed or has not begun.
func (t *table) find(index int) (s Segment, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.segments) == 0 {
		return Segment{}, false
	}
	i := index - t.segments[0].Index
	if i < 0 || i >= len(t.segments) {
		return Segment{}, false
	}
	return t.segments[i], true
}

// holding returns the segment that a reader of what follows event after begins with: the last one that begins at or
// before that event, so that notes behind it are found too; else the oldest.
func (t *table) holding(after uint64) Segment {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := len(t.segments) - 1
	for i > 0 && t.segments[i].First > after {
		i--
	}
	return t.segments[i]
}

// remove deletes sealed segments, after announce was told which will be the oldest. The last one is never deleted, and its
// opening mark carries the numbering on.
func (t *table) remove(dir string, through int, announce func(oldest Segment) error) error {
	t.removing.Lock()
	defer t.removing.Unlock()
	segments := t.list()
	n := removable(segments, through)
	if n == 0 {
		return nil
	}
	if err := announce(segments[n]); err != nil {
		return err
	}
	var err error
	removed := 0
	for _, s := range segments[:n] {
		// Not under t.mu: unlinking a large file takes a while, and every commit would wait.
		if err = os.Remove(wlog.SegmentName(dir, s.Index)); err != nil {
			break
		}
		removed++
	}
	if removed > 0 {
		t.drop(removed)
		err = errors.Join(err, syncDir(dir))
	}
	return err
}

// drop forgets the n oldest segments.
func (t *table) drop(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.segments = slices.Delete(t.segments, 0, n)
}

// segmentIndexes returns the indexes of the segment files in dir, ascending.
func segmentIndexes(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, readError(dir, err)
	}
	var indexes []int
	for _, e := range entries {
		index, err := strconv.Atoi(e.Name())
		if err == nil && index >= 0 && filepath.Base(wlog.SegmentName(dir, index)) == e.Name() {
			indexes = append(indexes, index)
		}
	}
	slices.Sort(indexes)
	return indexes, nil
}
