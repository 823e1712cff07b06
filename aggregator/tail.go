package aggregator

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

// Tail reads the accepted events of a data directory in their order, from one place on. It knows nothing of the applier and
// the store, holds nothing back, neither appends nor retention, and there may be any number. It belongs to one goroutine.
type Tail struct {
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

// TailEvent is an event with its place. It is valid until the function that got it returns.
type TailEvent struct {
	event.View
	// Producer and Seq are what [event.View.AppendJSON] makes an id of.
	Producer string
	Seq      uint64
}

// TailAfter returns a tail that begins behind a cursor. The error is ErrForeignCursor or ErrCursorGone (errors.Is) where the
// cursor leads nowhere.
func (a *Aggregator) TailAfter(c Cursor) (*Tail, error) {
	if err := c.belongs(a.journal.ID(), a.journal.End()); err != nil {
		return nil, err
	}
	t, err := a.tail(c.seq)
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

// TailSince returns a tail that begins with the first event accepted at or after a time, and with the oldest kept where that
// is older or the zero time. At what is accepted from now on it looks no more: a clock that is set back hides nothing.
func (a *Aggregator) TailSince(since time.Time) (*Tail, error) {
	var t *Tail
	err := journal.ErrGone
	for tries := 0; errors.Is(err, journal.ErrGone) && tries < 5; tries++ { // the oldest segment may be retired meanwhile
		var after uint64
		if after, err = a.before(since.Add(-sinceMargin)); err == nil {
			t, err = a.tail(after)
		}
	}
	if err != nil {
		return nil, err
	}
	if !since.IsZero() {
		t.sinceMillis, t.sinceThrough = since.UnixMilli(), a.journal.End()
	}
	return t, nil
}

// tail returns a tail behind an event. It reads the record of that event too, for its check.
func (a *Aggregator) tail(after uint64) (*Tail, error) {
	id, err := uuid.Parse(a.journal.ID())
	if err != nil {
		return nil, fmt.Errorf("id of the journal: %w", err)
	}
	t := &Tail{journal: a.journal, cursor: Cursor{journal: id, seq: after}}
	kept := after > 0 && after >= a.journal.Start()
	if kept {
		after--
	}
	if t.reader, err = a.journal.Reader(after); err != nil {
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
func (t *Tail) look() error {
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
func (a *Aggregator) before(at time.Time) (uint64, error) {
	segments := a.journal.Segments()
	i := slices.IndexFunc(segments, func(s journal.Segment) bool { return !s.Newest.Before(at) })
	if i < 0 {
		return a.journal.End(), nil
	}
	seg, failure := segments[i], error(nil)
	n := sort.Search(int(seg.Last+1-seg.First), func(k int) bool {
		committed, err := a.committedAt(seg.First + uint64(k))
		if err != nil {
			failure = err
		}
		return err != nil || !committed.Before(at)
	})
	return seg.First + uint64(n) - 1, failure
}

// committedAt returns when an event was made durable, of a damaged one when what follows it was.
func (a *Aggregator) committedAt(seq uint64) (time.Time, error) {
	r, err := a.journal.Reader(seq - 1)
	if err != nil {
		return time.Time{}, err
	}
	defer r.Close() //nolint:errcheck // it was only read
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return a.cfg.Now(), nil
		}
		if err != nil || rec.N > 0 {
			return rec.At, err
		}
	}
}

// Next reads on and calls f for each event of what it has read, until f returns false; the next call goes on behind the event
// for which it did. At the durable end Next returns io.EOF, and may be called again when there is more. The error is
// ErrCursorGone (errors.Is) where retention has overtaken the tail. Events that were erased are passed over.
func (t *Tail) Next(f func(e *TailEvent) bool) error {
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
	e := TailEvent{Producer: rec.Producer}
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
func (t *Tail) Cursor() Cursor { return t.cursor }

// End returns the sequence number of the last durable event, and Seq that of the last one read.
func (t *Tail) End() uint64 { return t.journal.End() }

// Seq returns the sequence number of the last event read.
func (t *Tail) Seq() uint64 { return t.cursor.seq }

// Missing returns how many events could not be passed on because the journal is damaged there.
func (t *Tail) Missing() uint64 { return t.missing }

// Changed returns a channel that is closed when there is more. Take it before the call of Next that returns io.EOF.
func (t *Tail) Changed() <-chan struct{} { return t.journal.Changed() }

// Close releases the file that the tail is in.
func (t *Tail) Close() error { return t.reader.Close() }
