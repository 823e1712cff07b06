package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"usaged/aggregator/durable"
)

// boundsFile says which segments there must be. wlog ignores names that are not numbers.
const boundsFile = "bounds.json"

var boundsFormat = durable.Format{Version: 1}

// bounds is what is known of both ends of the journal, apart from the segments themselves: without it a segment that was
// deleted while no daemon ran looks as if it had been removed in good order, or never written.
//
// The oldest segment is written before [Journal.Remove] deletes, so what the file names must exist, and what lies before it
// may. What the file says of the newest segment may be older than the truth, and never newer: it is written after a segment
// was begun, and when the journal was closed.
type bounds struct {
	// Oldest is the oldest segment kept, and First the number that it begins with.
	Oldest int    `json:"oldest_segment"`
	First  uint64 `json:"first_event"`
	// Newest is the newest segment that was begun, -1 where there was none, and Last the last event known to be durable.
	Newest int    `json:"newest_segment"`
	Last   uint64 `json:"last_event"`
	// Closed says that nothing was written behind Last.
	Closed bool `json:"closed"`
}

// loadBounds returns nil where the file is absent, as in journals that are older than it, or damaged: then the segments that
// exist are believed.
func loadBounds(dir string, log *slog.Logger) (*bounds, error) {
	path := filepath.Join(dir, boundsFile)
	var b bounds
	_, err := boundsFormat.LoadJSON(path, &b)
	switch {
	case err == nil:
		return &b, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, durable.ErrDamaged):
		log.Warn("the file that names the segments of the journal is damaged and is made anew from those that exist", "err", err)
		return nil, nil
	case errors.Is(err, durable.ErrVersion):
		return nil, fmt.Errorf("%w: start the version of usaged that wrote it, or a newer one", err)
	}
	return nil, readError(path, err)
}

// listSegments returns the indexes of the segments and what is known of the ends. Leftovers are what an interrupted Remove has
// not deleted, where it has deleted a newer one.
func listSegments(dir string, log *slog.Logger) (indexes, leftovers []int, known *bounds, err error) {
	// The list first: a daemon writes the file before it deletes.
	if indexes, err = segmentIndexes(dir); err != nil {
		return nil, nil, nil, err
	}
	if known, err = loadBounds(dir, log); err != nil || known == nil {
		return indexes, nil, nil, err
	}
	for i := len(indexes) - 1; i > 0; i-- {
		if indexes[i-1] < indexes[i]-1 && indexes[i] <= known.Oldest {
			return indexes[i:], indexes[:i], known, nil
		}
	}
	return indexes, nil, known, nil
}

// checkEnds refuses a journal whose oldest or newest segments are missing.
func (b *bounds) checkEnds(dir string, indexes []int) error {
	if b == nil {
		return nil
	}
	if len(indexes) > 0 && indexes[0] > b.Oldest {
		behind, err := summarizeEnds(dir, indexes[0])
		if err != nil {
			return err
		}
		return &DamageError{Dir: dir, Segment: b.Oldest, First: b.First, Last: max(behind.first, 1) - 1, Err: errMissing}
	}
	missing, next := b.Oldest, b.First
	if len(indexes) > 0 {
		before, err := summarizeEnds(dir, indexes[len(indexes)-1])
		if err != nil {
			return err
		}
		missing, next = indexes[len(indexes)-1]+1, before.next
	}
	if missing > b.Newest {
		return nil
	}
	damage := &DamageError{Dir: dir, Segment: missing, First: next, Err: errMissing}
	if b.Closed {
		damage.Last = b.Last
	}
	return damage
}

// checkLast refuses a journal that ends before the last event known. last is the newest segment that holds data, nil where there
// is none.
func (b *bounds) checkLast(dir string, last *summary) error {
	if last == nil {
		last = &summary{next: 1}
	}
	if b == nil || b.Last < last.next {
		return nil
	}
	return &DamageError{Dir: dir, Segment: last.index, Offset: last.bytes, First: last.next, Last: b.Last, Err: errMissingRecords}
}

var (
	errMissing        = errors.New("the file is missing")
	errMissingRecords = errors.New("records are missing at the end")
)

// boundsKeeper writes the file. It is safe for concurrent use.
type boundsKeeper struct {
	dir string

	mu sync.Mutex
	// b is what the file holds, or held before the last attempt to write it. The zero value is never written as it is.
	b bounds
}

// save replaces what change changes. On an error the file holds what it did, or what was to be written; both are true.
func (k *boundsKeeper) save(change func(*bounds)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.b
	change(&b)
	if err := boundsFormat.SaveJSON(filepath.Join(k.dir, boundsFile), b, 0o640); err != nil {
		return fmt.Errorf("write which segments the journal has: %w", err)
	}
	k.b = b
	return nil
}

// recovered takes over what was found in the segments.
func (b *bounds) recovered(segments []Segment, next uint64) {
	*b = bounds{First: next, Newest: -1, Last: next - 1}
	if len(segments) > 0 {
		b.Oldest, b.First, b.Newest = segments[0].Index, segments[0].First, segments[len(segments)-1].Index
	}
}

// noteEnd writes what is known of the newest segment. Without it, or with one that is out of date, all that exists can still
// be read, so an error does not stop the journal.
func (j *Journal) noteEnd(closed bool) {
	segments := j.table.list()
	err := j.bounds.save(func(b *bounds) {
		if b.Newest < 0 {
			b.Oldest, b.First = segments[0].Index, segments[0].First
		}
		b.Newest, b.Last, b.Closed = segments[len(segments)-1].Index, j.table.end(), closed
	})
	if err != nil {
		j.metrics.boundsFailures.Inc()
		j.cfg.Log.Warn("a segment that gets lost from now on may not be missed", "err", err)
	}
}

// Remove deletes the sealed segments with an index up to through, oldest first. Readers inside one can finish it. On an
// error the segments that could not be deleted are still there.
func (j *Journal) Remove(through int) error {
	full := false
	err := j.table.remove(j.cfg.Dir, through, func(oldest Segment) error {
		err := j.bounds.save(func(b *bounds) { b.Oldest, b.First = oldest.Index, oldest.First })
		// On a full disk there is room when something was deleted. After a crash in between, Open reports segments as missing
		// that were not needed any more: better than a disk that stays full.
		if full = refusesWrites(err); full {
			return nil
		}
		return err
	})
	if full && err == nil {
		segments := j.table.list()
		err = j.bounds.save(func(b *bounds) { b.Oldest, b.First = segments[0].Index, segments[0].First })
	}
	if err != nil {
		return fmt.Errorf("remove segments up to %d: %w", through, err)
	}
	return nil
}

// removable returns how many of the oldest segments are sealed and have an index up to through.
func removable(segments []Segment, through int) int {
	n := slices.IndexFunc(segments, func(s Segment) bool { return !s.Sealed || s.Index > through })
	if n < 0 {
		return len(segments)
	}
	return n
}
