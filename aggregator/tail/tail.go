// Package tail reads the accepted events of a data directory in the order of its journal, for auditors who follow the raw
// events.
//
// A [Reader] begins after a [Cursor], or with the first event accepted since a time, and reads on as long as its caller wants
// to. It promises that what several readers have read, each of which began after the last cursor of the one before, is every
// accepted event once and in order: duplicates included, erased events left out, and damaged ones counted as missing. It
// promises never to answer from the wrong place: a cursor that leads nowhere is [ErrForeignCursor] or [ErrCursorGone].
//
// A reader keeps no segment of the journal from being deleted, and never delays those who append. One belongs to one
// goroutine; there may be any number of them beside each other.
//
//	reader, err := tail.Since(journal, time.Now().Add(-time.Hour))
//	...
//	defer reader.Close()
//	for {
//		changed := reader.Changed()
//		err := reader.Next(func(e *tail.Event) bool { fmt.Printf("%s\n", e.UserID); return true })
//		if errors.Is(err, io.EOF) {
//			<-changed // until more is accepted
//		} else if err != nil {
//			return err
//		}
//	}
package tail

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"time"

	"github.com/google/uuid"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
)

// Reader reads the accepted events of a data directory in their order, from one place on. It knows nothing of the applier and
// the store, holds nothing back, neither appends nor retention, and there may be any number. It belongs to one goroutine.
type Reader struct {
	journal *journal.Journal
	reader  *journal.Reader
	held    *journal.Record // read, but not passed on to its end
	cursor  Cursor
	known   bool // the cursor has the check of its event
	// Events up to and including sinceThrough that were accepted before sinceMillis are passed over.
	sinceMillis  int64
	sinceThrough uint64
	missing      uint64
}

// Event is an event with its place. It is valid until the function that got it returns.
type Event struct {
	event.View
	// Producer and Seq are what [event.View.AppendJSON] makes an id of.
	Producer string
	Seq      uint64
}

// After returns a reader of a journal that begins behind a cursor. The error is ErrForeignCursor or ErrCursorGone (errors.Is) where the
// cursor leads nowhere.
func After(j *journal.Journal, c Cursor) (*Reader, error) {
	if err := c.belongs(j.ID(), j.End()); err != nil {
		return nil, err
	}
	t, err := open(j, c.seq)
	if err != nil {
		return nil, err
	}
	if t.known && t.cursor.check != c.check {
		err := fmt.Errorf("%w: event %d is another one: the data directory was restored from a backup, or is a copy", ErrForeignCursor, c.seq)
		return nil, errors.Join(err, t.Close())
	}
	t.cursor = c
	return t, nil
}

// sinceMargin allows for records that were committed in another order than their events were accepted.
const sinceMargin = time.Minute

// Since returns a reader of a journal that begins with the first event accepted at or after a time, and with the oldest kept where that
// is older or the zero time. At what is accepted from now on it looks no more: a clock that is set back hides nothing.
func Since(j *journal.Journal, since time.Time) (*Reader, error) {
	var t *Reader
	err := journal.ErrGone
	for tries := 0; errors.Is(err, journal.ErrGone) && tries < 5; tries++ { // the oldest segment may be retired meanwhile
		var after uint64
		if after, err = before(j, since.Add(-sinceMargin)); err == nil {
			t, err = open(j, after)
		}
	}
	if err != nil {
		return nil, err
	}
	if !since.IsZero() {
		t.sinceMillis, t.sinceThrough = since.UnixMilli(), j.End()
	}
	return t, nil
}

// open returns a reader behind an event. It reads the record of that event too, for its check.
func open(j *journal.Journal, after uint64) (*Reader, error) {
	id, err := uuid.Parse(j.ID())
	if err != nil {
		return nil, fmt.Errorf("id of the journal: %w", err)
	}
	t := &Reader{journal: j, cursor: Cursor{journal: id, seq: after}}
	kept := after > 0 && after >= j.Start()
	if kept {
		after--
	}
	if t.reader, err = j.Reader(after); err != nil {
		return nil, tailError(err)
	}
	if kept {
		err = t.look()
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// look reads the record of the event that the tail lies behind, and holds it: what follows in it is still to be passed on.
func (t *Reader) look() error {
	for {
		rec, err := t.reader.Next()
		if errors.Is(err, io.EOF) {
			return nil // damaged to the end
		}
		if err != nil {
			return tailError(err)
		}
		if rec.N == 0 {
			continue
		}
		t.held = &rec
		if rec.First <= t.cursor.seq { // else it is damaged
			t.cursor.check, t.known = checkOf(rec.At), true
		}
		return nil
	}
}

// tailError makes ErrCursorGone of the journal's own error, and keeps the latter in the chain.
func tailError(err error) error {
	if errors.Is(err, journal.ErrGone) {
		return fmt.Errorf("%w: %w", ErrCursorGone, err)
	}
	return err
}

// before returns the last event that was committed before a time: from the stamps of segments, and within one by bisection,
// which reads a few records of it instead of all.
func before(j *journal.Journal, at time.Time) (uint64, error) {
	segments := j.Segments()
	i := slices.IndexFunc(segments, func(s journal.Segment) bool { return !s.Newest.Before(at) })
	if i < 0 {
		return j.End(), nil
	}
	seg, failure := segments[i], error(nil)
	n := sort.Search(int(seg.Last+1-seg.First), func(k int) bool {
		earlier, err := committedBefore(j, seg.First+uint64(k), at)
		if err != nil {
			failure = err
		}
		return err != nil || !earlier
	})
	return seg.First + uint64(n) - 1, failure
}

// committedBefore says whether an event was made durable before a time. Of a damaged event the next readable one tells; where there
// is none the answer is no, so that the reader begins too early rather than too late.
func committedBefore(j *journal.Journal, seq uint64, at time.Time) (bool, error) {
	r, err := j.Reader(seq - 1)
	if err != nil {
		return false, err
	}
	defer r.Close() //nolint:errcheck // it was only read
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if rec.N > 0 {
			return rec.At.Before(at), nil
		}
	}
}

// Next reads on and calls f for each event of what it has read, until f returns false; the next call goes on behind the event
// for which it did. At the durable end Next returns io.EOF, and may be called again when there is more. The error is
// ErrCursorGone (errors.Is) where retention has overtaken the tail. Events that were erased are passed over.
func (t *Reader) Next(f func(e *Event) bool) error {
	rec := t.held
	if rec == nil {
		read, err := t.reader.Next()
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return tailError(err)
		}
		rec = &read
	}
	t.held = nil
	if rec.N == 0 {
		return nil
	}
	if rec.Gap > 0 && rec.First > t.cursor.seq+1 {
		t.missing += rec.First - 1 - t.cursor.seq
	}
	t.cursor.check = checkOf(rec.At)
	e := Event{Producer: rec.Producer}
	for seq, entry := range rec.Each {
		if seq <= t.cursor.seq {
			continue
		}
		t.cursor.seq, e.Seq = seq, seq
		if len(entry) == 0 {
			continue
		}
		if err := event.Parse(entry, &e.View); err != nil {
			t.missing++ // of a newer version: the applier stops at it
			continue
		}
		if seq <= t.sinceThrough && e.AcceptedMillis < t.sinceMillis {
			continue
		}
		if !f(&e) {
			t.held = rec
			return nil
		}
	}
	return nil
}

// Cursor returns the place behind the last event that was read. While f of Next runs that is the event that f has.
func (t *Reader) Cursor() Cursor { return t.cursor }

// End returns the sequence number of the last durable event, and Seq that of the last one read.
func (t *Reader) End() uint64 { return t.journal.End() }

// Seq returns the sequence number of the last event read.
func (t *Reader) Seq() uint64 { return t.cursor.seq }

// Missing returns how many events could not be passed on because the journal is damaged there.
func (t *Reader) Missing() uint64 { return t.missing }

// Changed returns a channel that is closed when there is more. Take it before the call of Next that returns io.EOF.
func (t *Reader) Changed() <-chan struct{} { return t.journal.Changed() }

// Close releases the file that the tail is in.
func (t *Reader) Close() error { return t.reader.Close() }
