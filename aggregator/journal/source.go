package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
)

// knownPlaces bounds how many bad places are remembered, so that a journal that is nothing but damage does not fill the
// memory. Places beyond it are counted each time.
const knownPlaces = 10_000

// damageLog remembers which bad places have been reported.
type damageLog struct {
	mu    sync.Mutex
	known map[place]struct{}
}

// isNew reports whether p is seen for the first time.
func (d *damageLog) isNew(p place) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.known[p]; ok {
		return false
	}
	if d.known == nil {
		d.known = make(map[place]struct{})
	}
	if len(d.known) < knownPlaces {
		d.known[p] = struct{}{}
	}
	return true
}

// liveSource reads an open journal up to its last durable byte.
type liveSource struct{ j *Journal }

func (s liveSource) dir() string   { return s.j.cfg.Dir }
func (s liveSource) durable() bool { return true }

func (s liveSource) ended(int, uint64) error { return io.EOF }

func (s liveSource) extent(index int) (extent, error) {
	segment, ok := s.j.table.find(index)
	return extent{end: segment.Bytes, sealed: segment.Sealed, next: index + 1, exists: ok}, nil
}

func (s liveSource) noteDamage(p place, err error) bool {
	if !s.j.damage.isNew(p) {
		return false
	}
	s.j.metrics.damagedPlaces.Inc()
	s.j.cfg.Log.Error("journal is damaged", "segment", p.segment, "offset_bytes", p.offset, "err", err)
	return true
}

func (s liveSource) noteLost(events uint64) {
	s.j.metrics.damagedEvents.AddInt64(int64(events))
	s.j.cfg.Log.Error("events are missing in the journal", "events", events)
}

// OpenReader returns a reader of the journal in dir from its first record on, without opening the journal: beside a
// running daemon, or on a copy. At the end it cannot know what is durable, and may return the record that is being
// synced. A torn tail is io.EOF; damage is skipped and reported in Record.Gap. Where the end is known to be missing, Next
// returns a *[DamageError] in place of io.EOF.
func OpenReader(dir string) (*Reader, error) {
	indexes, _, known, err := listSegments(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if len(indexes) == 0 {
		return nil, fmt.Errorf("read journal: no segments in %s", dir)
	}
	first, err := firstNumber(dir, indexes)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if known != nil && indexes[0] > known.Oldest {
		first = min(first, known.First)
	}
	r := &Reader{src: dirSource{dir, known}, next: first, started: true}
	if err := r.enter(indexes[0]); err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return r, nil
}

// dirSource reads the files in a directory.
type dirSource struct {
	path  string
	known *bounds // when the reader was opened, nil where there is no such file
}

func (d dirSource) dir() string   { return d.path }
func (d dirSource) durable() bool { return false }

func (d dirSource) extent(index int) (extent, error) {
	// The list first: where there is a next one, the size of this one is final.
	indexes, err := segmentIndexes(d.path)
	if err != nil {
		return extent{}, err
	}
	e := extent{next: index + 1}
	i, exists := slices.BinarySearch(indexes, index)
	if exists {
		i++
	}
	if i < len(indexes) {
		e.sealed = true
	}
	if i > 0 && i < len(indexes) { // else this one was the oldest, and what follows may have been removed too
		e.next = indexes[i]
	}
	if !exists {
		return e, nil
	}
	size, err := fileSize(d.path, index)
	if errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	e.end, e.exists = size, true
	return e, nil
}

func (d dirSource) noteDamage(place, error) bool { return false }
func (d dirSource) noteLost(uint64)              {}

func (d dirSource) ended(segment int, next uint64) error {
	if d.known == nil || segment >= d.known.Newest && next > d.known.Last {
		return io.EOF
	}
	damage := &DamageError{Dir: d.path, Segment: max(segment+1, d.known.Newest), First: next, Err: errMissing}
	if d.known.Closed || segment >= d.known.Newest {
		damage.Last = d.known.Last
	}
	if segment >= d.known.Newest {
		damage.Segment, damage.Err = segment, errMissingRecords
	}
	return damage
}
