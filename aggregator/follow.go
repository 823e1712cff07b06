package aggregator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
)

// foldLive reads what is new, at most to the end of a segment, for all live partitions at once, and has it applied. It returns the
// number of events read.
func (p *applier) foldLive(ctx context.Context) int {
	p.full = false
	n, position, err := p.gather()
	if err != nil {
		p.rewind(p.position)
		for _, c := range p.partitions {
			if c.folding || c.is(partitionLive) && c.due() {
				c.folding = false
				p.settle(c, err)
			}
		}
		return 0
	}
	p.hand(ctx, position)
	return n
}

// gather folds what is new. It returns the number of events read, and the event up to which they go.
func (p *applier) gather() (n int, position uint64, err error) {
	through, taken, err := p.begin()
	position = p.position // where begin may have moved it
	if err != nil || !taken {
		return 0, position, err
	}
	if p.reader == nil {
		if p.reader, err = p.source.open(p.position); err != nil {
			return 0, position, err
		}
		p.held = nil
	}
	for !p.full {
		end := p.journal.End()
		rec, err := p.next()
		if errors.Is(err, io.EOF) {
			return n, p.endDamaged(position, end), nil
		}
		if err != nil {
			return 0, position, err
		}
		if rec.Segment != p.segment && p.segment >= 0 && n > 0 {
			p.held, p.full = rec, true // the end of a segment is where checkpoints are made
			break
		}
		if rec.Note == nil && rec.First > through { // an epoch ends after a record
			p.held, p.full = rec, true
			position = max(position, through)
			break
		}
		p.segment = rec.Segment
		p.noteGap(rec)
		if rec.Note != nil {
			continue // verdicts are written by us, and read where a partition falls back
		}
		p.noteWaiting(rec, n == 0, position)
		p.foldRecord(rec)
		n += rec.N
		position = max(position, rec.First+uint64(rec.N)-1)
		p.full = n >= maxFoldEvents || slices.ContainsFunc(p.partitions, (*partition).full)
	}
	return n, position, nil
}

// noteWaiting notes since when the first event of a fold has been waiting.
func (p *applier) noteWaiting(rec *journal.Record, first bool, position uint64) {
	switch {
	case !first:
	case p.accounts.CountedThrough() == position:
		p.setOldest(rec.At)
	default:
		p.waitsSince(rec.At)
	}
}

// next returns the record that was held, or the next one.
func (p *applier) next() (*journal.Record, error) {
	if rec := p.held; rec != nil {
		p.held = nil
		return rec, nil
	}
	rec, err := p.reader.Next()
	return &rec, err
}

// foldRecord hands the events of a record to the folds of their users' partitions.
func (p *applier) foldRecord(rec *journal.Record) {
	each(p.users, rec, p.position, allEvents, func(seq uint64, v *event.View, user userInfo) {
		if c := p.partitions[user.partition]; c.folding && seq > c.fold.after {
			c.fold.add(seq, v, user.name)
		}
	})
}

// hand gives each partition that took part its fold, which ends at position: to all at once, as those of a cluster lie on several
// servers.
func (p *applier) hand(ctx context.Context, position uint64) {
	moved := position != p.position
	p.position = position
	for _, c := range p.partitions {
		if !c.folding {
			continue
		}
		c.folding = false
		if isReadError(c.err) {
			p.settle(c, nil) // the journal can be read again
		}
		switch {
		case !moved:
		case c.fold.empty():
			p.accounts.Advance(c.index, position)
		default:
			p.start(c, task{ctx: ctx, through: position})
		}
	}
}

// begin prepares the live partitions for a fold up to and including through, and returns false where there are none. Where all
// have fallen back the applier moves back to the furthest.
func (p *applier) begin() (through uint64, taken bool, err error) {
	if least := p.accounts.CountedThrough(); least < p.position && !slices.ContainsFunc(p.partitions, func(c *partition) bool { return c.holds(p.position) }) {
		p.rewind(least)
	}
	e, through, err := p.history.at(p.position + 1)
	if err != nil {
		return 0, false, err
	}
	for _, c := range p.partitions {
		c.folding = c.joins(p.position)
		if c.folding {
			c.fold.reset(e, p.counting, c.position())
		}
		taken = taken || c.folding
	}
	return through, taken, nil
}

// holds says that the applier must not move back from a position: a partition stands where it does, or it is not known yet where the
// partition will stand.
func (c *partition) holds(position uint64) bool {
	return c.busy || c.is(partitionLoading) || c.batch != nil || c.position() >= position || !c.onLastProducer()
}

// joins says whether the partition takes part in a fold from where the applier stands. One that has caught up becomes live, and one
// that missed a fold is live no more. Events of an earlier producer are applied apart, so that no batch spans two.
func (c *partition) joins(position uint64) bool {
	if c.busy || c.batch != nil || !c.is(partitionLive) && !c.is(partitionCatchingUp) {
		return false
	}
	if c.position() < position || !c.onLastProducer() {
		c.become(partitionCatchingUp)
		return false
	}
	if c.is(partitionCatchingUp) {
		c.become(partitionLive)
	}
	return c.due()
}

// allEvents is a number after every event.
const allEvents = ^uint64(0)

// each calls f for the events of a record after one, up to and including through, that were not blanked.
func each(users *users, rec *journal.Record, after, through uint64, f func(seq uint64, v *event.View, user userInfo)) {
	var v event.View
	for seq, entry := range rec.Each {
		if seq <= after || len(entry) == 0 {
			continue
		}
		if seq > through {
			return
		}
		f(seq, &v, users.read(seq, entry, &v))
	}
}

// readError says that the journal could not be read, for a reason that may pass: nothing is known of the events.
type readError struct{ err error }

func (e *readError) Error() string { return fmt.Sprintf("read journal: %v", e.err) }
func (e *readError) Unwrap() error { return e.err }

func isReadError(err error) bool {
	_, is := errors.AsType[*readError](err)
	return is
}

// recordReader reads the journal. Its errors other than io.EOF are a readError.
type recordReader struct {
	*journal.Reader
	fault func() error // of the configuration
}

// source reads the journal.
type source struct {
	journal *journal.Journal
	fault   func() error // what a test lets the next read for the store fail with, nil outside of tests
}

// open returns a reader of the records after an event.
func (s source) open(after uint64) (*recordReader, error) {
	if err := s.failure(); err != nil {
		return nil, &readError{err}
	}
	r, err := s.journal.Reader(after)
	if err != nil {
		return nil, &readError{err}
	}
	return &recordReader{Reader: r, fault: s.failure}, nil
}

// journalEnd says how far the records of a journal go.
type journalEnd struct {
	reached bool   // the reader has come to the end
	last    uint64 // event of the last record
	durable uint64 // event of the journal before the reader came to its end
}

// records calls f for the records after an event, until it returns false or the journal ends.
func (s source) records(after uint64, f func(*journal.Record) bool) (end journalEnd, err error) {
	r, err := s.open(after)
	if err != nil {
		return end, err
	}
	defer r.Close() //nolint:errcheck // it was only read
	end.last = after
	for {
		end.durable = s.journal.End()
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			end.reached = true
			return end, nil
		}
		if err != nil {
			return end, err
		}
		end.last = max(end.last, rec.First+uint64(rec.N)-1)
		if !f(&rec) {
			return end, nil
		}
	}
}

// Next returns the next record.
func (r *recordReader) Next() (journal.Record, error) {
	if err := r.fault(); err != nil {
		return journal.Record{}, &readError{err}
	}
	rec, err := r.Reader.Next()
	if err != nil && !errors.Is(err, io.EOF) {
		err = &readError{err}
	}
	return rec, err
}

// failure returns what a test lets the next read fail with.
func (s source) failure() error {
	if s.fault == nil {
		return nil
	}
	return s.fault()
}
