package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/google/uuid"
)

// source is where a Reader finds its segments: an open journal, or a directory.
type source interface {
	extent(index int) (extent, error)
	// noteDamage is told of each bad place. It returns false where the place is known already.
	noteDamage(p place, err error) bool
	// noteLost is told how many events were lost in a place that noteDamage had not known.
	noteLost(events uint64)
	dir() string
	// durable is false where what lies at the end may be in the course of being written.
	durable() bool
	// ended returns io.EOF, or an error where more is known to have been written than a reader has found that is at its end,
	// in the given segment and before the given event.
	ended(segment int, next uint64) error
}

// extent says how far a segment may be read.
type extent struct {
	end    int64
	sealed bool // end is final
	next   int  // the segment behind it
	exists bool // else it has been removed, and end is unknown
}

// place is where something cannot be read.
type place struct {
	segment int
	offset  int64
}

// Reader reads a journal from one position on. It belongs to one goroutine. It doesn't hold back Remove: it finishes
// the segment that it is in, and returns [ErrGone] if the one behind it is gone too.
type Reader struct {
	src     source
	scan    *scanner
	file    *segmentFile
	segment int
	sealed  bool
	failed  bool // the last call could not read: the next one takes a fresh descriptor

	next    uint64 // the number that the next event must have
	started bool   // the first record behind the position has been seen
	gap     uint64 // events found missing and not yet reported
	// Since the last record: a bad place was met, and no reader had met it before.
	damage, newDamage bool

	producer     uuid.UUID
	producerName string
}

// Reader returns a reader behind the event with the given number; 0 is before the first. The error wraps [ErrGone] where
// the event that follows has been removed.
func (j *Journal) Reader(after uint64) (*Reader, error) {
	if start := j.Start(); after+1 < start {
		return nil, fmt.Errorf("read behind event %d: %w, it starts at %d", after, ErrGone, start)
	}
	if end := j.End(); after > end {
		return nil, fmt.Errorf("read behind event %d: the last is %d", after, end)
	}
	r := &Reader{src: liveSource{j}, next: after + 1}
	if err := r.enter(j.table.holding(after).Index); err != nil {
		return nil, fmt.Errorf("read behind event %d: %w", after, err)
	}
	if err := r.seek(after); err != nil {
		return nil, errors.Join(fmt.Errorf("read behind event %d: %w", after, err), r.Close())
	}
	return r, nil
}

// Next returns the next record, which is valid until the next call. At the durable end it returns io.EOF, and may be
// called again when there is more. Behind damage the next record tells in Gap how many events are missing. A *[ReadError]
// says that the disk did not answer: the next call reads on from the same place.
func (r *Reader) Next() (Record, error) {
	rec, err := r.read()
	r.failed = isReadError(err)
	return rec, err
}

func (r *Reader) read() (Record, error) {
	if r.failed {
		if err := r.scan.reread(); err != nil {
			return Record{}, err
		}
	}
	for {
		h, body, err := r.scan.next()
		if err == nil {
			if r.accept(h) {
				return r.record(h, body), nil
			}
			continue
		}
		if errors.Is(err, io.EOF) {
			err = r.advance()
		} else if bad, ok := errors.AsType[*badPlaceError](err); ok {
			err = r.skip(bad)
		}
		if errors.Is(err, io.EOF) {
			err = r.src.ended(r.segment, r.next)
		}
		if errors.Is(err, io.EOF) {
			return Record{}, io.EOF
		}
		if err != nil {
			return Record{}, fmt.Errorf("read journal segment %d: %w", r.segment, err)
		}
	}
}

// Close releases the file that the reader is in. The reader must not be used afterwards.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// enter opens a segment at its beginning.
func (r *Reader) enter(index int) error {
	e, err := r.src.extent(index)
	if err != nil {
		return err
	}
	if !e.exists {
		return fmt.Errorf("segment %d was removed: %w", index, ErrGone)
	}
	file, err := openSegment(r.src.dir(), index)
	if errors.Is(err, fs.ErrNotExist) {
		return r.goneOr(index, err)
	}
	if err != nil {
		return err
	}
	_ = r.Close() // it was only read
	r.file, r.segment, r.sealed = file, index, e.sealed
	if r.scan == nil {
		r.scan = newScanner(file, e.end)
	}
	r.scan.reset(file, e.end)
	r.scan.growing = !e.sealed && !r.src.durable()
	return nil
}

// goneOr tells a segment that was removed in good order from one that should be there: its directory may not be mounted.
func (r *Reader) goneOr(index int, err error) error {
	e, extentErr := r.src.extent(index)
	if extentErr != nil {
		return extentErr
	}
	if e.exists {
		return err
	}
	return fmt.Errorf("segment %d was removed: %w", index, ErrGone)
}

// advance goes on where the scanner has reached its end: in what was added to the segment, or in the next one.
func (r *Reader) advance() error {
	e, err := r.src.extent(r.segment)
	if err != nil {
		return err
	}
	if !r.sealed && !e.exists { // it was sealed and removed: what the descriptor leads to is complete
		size, err := r.file.size()
		if err != nil {
			return err
		}
		e.end, e.sealed = size, true
	}
	if !r.sealed && e.end > r.scan.end {
		r.scan.end = e.end
		return nil
	}
	r.sealed = r.sealed || e.sealed
	if !r.sealed {
		return io.EOF
	}
	return r.enter(e.next)
}

// skip goes on behind a bad place.
func (r *Reader) skip(bad *badPlaceError) error {
	found, err := r.scan.skipBad()
	if err != nil {
		return err
	}
	if !found && !r.sealed && !r.src.durable() {
		r.scan.off = bad.offset // being written, or torn
		r.scan.forget()
		return r.advance()
	}
	r.damaged(bad.offset, bad.err)
	return nil
}

func (r *Reader) damaged(offset int64, err error) {
	r.damage = true
	if r.src.noteDamage(place{r.segment, offset}, err) {
		r.newDamage = true
	}
}

// accept keeps count of the numbers, and reports whether the record is one to return.
func (r *Reader) accept(h header) bool {
	if !r.started && h.next() <= r.next && h.first < r.next { // before the position
		r.damage, r.newDamage = false, false
		return false
	}
	inside := !r.started && h.first < r.next
	r.started = true
	if h.first < r.next && !inside {
		r.damaged(r.scan.start, fmt.Errorf("record begins with event %d, want %d", h.first, r.next))
		return false
	}
	if h.first > r.next {
		r.missed(h)
	}
	r.damage, r.newDamage = false, false
	r.next = h.next()
	return h.kind == kindEvents || h.kind == kindNote
}

// missed counts the events missing before a record.
func (r *Reader) missed(h header) {
	lost := h.first - r.next
	r.gap += lost
	if h.kind != kindGap && !r.damage {
		r.damaged(r.scan.start, fmt.Errorf("record begins with event %d, want %d", h.first, r.next))
	}
	if r.newDamage {
		r.src.noteLost(lost)
	}
}

func (r *Reader) record(h header, body []byte) Record {
	if h.producer != r.producer || r.producerName == "" {
		r.producer, r.producerName = h.producer, h.producer.String()
	}
	rec := Record{
		Producer: r.producerName,
		Segment:  r.segment,
		At:       time.UnixMilli(h.stampMillis),
		First:    h.first,
		N:        h.n,
		Gap:      r.gap,
	}
	r.gap = 0
	if h.kind == kindNote {
		rec.Note = body
		return rec
	}
	rec.Entries = body
	return rec
}

// seek moves the scanner, at the beginning of a segment, close before the event that follows `after`: to the last page
// in which the first record begins at or before that event. The pages are searched by bisection, which reads about a
// dozen of the 2,048 pages of a segment and needs no index.
func (r *Reader) seek(after uint64) error {
	s := r.scan
	s.ahead = pageBytes
	defer func() { s.ahead = readBytes }()
	low, high := int64(0), (s.end+pageBytes-1)/pageBytes
	best := int64(0)
	for low+1 < high {
		middle := (low + high) / 2
		found, err := s.seekPage(middle * pageBytes)
		if err != nil {
			return err
		}
		if !found {
			high = middle
			continue
		}
		h, _, err := s.tryNext()
		if isReadError(err) {
			return err
		}
		if err != nil { // the record is bad: take the page before
			high = middle
			continue
		}
		if h.first <= after {
			low, best = middle, s.start
		} else {
			high = middle
		}
	}
	s.off = best
	return nil
}
