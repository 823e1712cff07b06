package aggregator

import (
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/store"
)

// disowning says from which events on numbers of this journal may have been given to other events too, and why.
type disowning struct {
	from   []uint64
	reason string // "" where that is not so
	// doubts is how many events may be counted twice: another process has counted them, or may yet, if its journal has the same.
	doubts uint64
}

// disowned asks the store whether numbers of events in this journal may have been given to other events under the last id:
//
//   - another process has taken it over since we were last in contact: it runs on a copy of this directory. What was counted
//     before it took over is ours; nothing after that is.
//   - the store holds events that the journal had not when it was first opened after the last contact: the journal was restored
//     from a snapshot. What was accepted since the opening moves to the new id.
//
// end is that of the journal, which contents reads.
func (id *identity) disowned(ctx context.Context, st Progress, end uint64, contents digester) (d disowning, err error) {
	d.from = make([]uint64, len(id.last().From))
	for i := range d.from {
		through, counted, taken, err := id.owned(ctx, st, i, contents)
		if err != nil {
			return d, fmt.Errorf("ask who has counted in partition %d: %w", i, err)
		}
		same := min(counted, end) // of what lies between from and it, the store may have the same events
		switch {
		case taken:
			same, d.reason = end, "another process took over the producer id" // and may yet count what it has in common with us
		case through < counted && d.reason == "":
			d.reason = "the store holds events that this journal does not: it was restored from a snapshot"
		}
		d.from[i] = max(through, id.last().From[i])
		d.doubts += max(same, d.from[i]) - d.from[i]
	}
	return d, nil
}

// disown begins a new producer where disowned says so.
func (p *applier) disown(ctx context.Context) error {
	id := p.identity
	d, err := id.disowned(ctx, p.store, p.journal.End(), p.digestOf)
	if err != nil || d.reason == "" {
		return err
	}
	if !id.Fenced { // then it is told apart by the gauge of its own
		p.metrics.storeAhead.Set(1)
	}
	if d.doubts > 0 {
		p.metrics.doubtful.AddInt64(int64(d.doubts))
		p.log.Error("events may be counted twice: another process, which ran on a block-level copy of this disk, may have had them in its journal too; "+
			"compare the two journals with `usagectl journal cat`", "events", d.doubts)
	}
	before, err := p.countBefore(d.from)
	if err != nil {
		return fmt.Errorf("count the events of the producer id before: %w", err)
	}
	return p.addProducer(d.from, before, d.reason)
}

// digestOf reads an event of the journal, whatever its partition. It is safe for concurrent use.
func (c *counting) digestOf(seq uint64) (digest uint64, ok bool, err error) {
	err = c.records(seq-1, func(rec *journal.Record) bool {
		digest, ok = digestIn(rec, seq)
		return !ok && rec.First <= seq
	})
	return digest, ok, err
}

// digestIn returns the digest of an event, where a record has it.
func digestIn(rec *journal.Record, seq uint64) (digest uint64, ok bool) {
	if rec.Note != nil {
		return 0, false
	}
	for n, entry := range rec.Each {
		if n == seq && len(entry) > 0 {
			return uint64(crc32.Checksum(entry, castagnoli)), true
		}
	}
	return 0, false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// countBefore counts the events of the journal that come no later than from says of their partition. Events whose partition
// nobody knows, since they have left the journal or are damaged, are among them: if they are counted, then under an earlier id.
func (p *applier) countBefore(from []uint64) (*uint64, error) {
	least, most := slices.Min(from), slices.Max(from)
	before := most
	err := p.records(least, func(rec *journal.Record) bool {
		if rec.Note != nil {
			return true
		}
		each(p.users, rec, least, most, func(seq uint64, _ *event.View, user userInfo) {
			if seq > from[user.partition] {
				before--
			}
		})
		return rec.First+uint64(rec.N)-1 < most
	})
	if err != nil {
		return nil, err
	}
	return &before, nil
}

// noticeAhead raises the alarm where the events of the id before this one, which ends where this directory was copied or
// restored, went on elsewhere. It is looked at once, before the store has seen the new id.
func (p *applier) noticeAhead(ctx context.Context) error {
	k := len(p.identity.Producers) - 2
	if k < 0 {
		return nil
	}
	for i := range p.partitions {
		met, err := p.store.Producer(ctx, i, p.identity.last().ID)
		if err != nil {
			return err
		}
		before, err := p.store.Producer(ctx, i, p.identity.Producers[k].ID)
		if err != nil {
			return err
		}
		if met.Session == 0 && before.Offset > p.identity.until(k, i) {
			p.metrics.storeAhead.Set(1)
			p.log.Warn("the store holds events that this journal does not: they were accepted after the backup or the copy was made",
				"partition", i, "counted", before.Offset, "journal", p.identity.until(k, i))
		}
	}
	return nil
}

func (p *applier) addProducer(from []uint64, before *uint64, why string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.identity.last().ID
	if err := p.identity.change(func(next *identity) error { return next.add(from, before) }); err != nil {
		return fmt.Errorf("begin a new producer id: %w", err)
	}
	p.log.Warn("counting new events under a new producer id", "reason", why, "old", old, "new", p.identity.last().ID)
	return nil
}

// takeOver makes sure that no earlier process applies anything from now on.
//
// The session is durable before the store sees it. A crash before the store has confirmed it in every partition leaves a
// directory that knows it as its own, and that is still to be compared with the store: Opened stays until then.
func (p *applier) takeOver(ctx context.Context) error {
	highest, offsets, err := p.identity.highestSession(ctx, p.store)
	if err != nil {
		return err
	}
	if err := p.ensureSession(highest); err != nil {
		return err
	}
	for i, offset := range offsets {
		out, err := p.store.Apply(ctx, &store.Batch{
			Producer: p.identity.last().ID, Session: p.identity.Session, Partition: i, Prev: offset, Last: offset,
		})
		if err != nil {
			return err
		}
		if !out.Applied {
			return fmt.Errorf("an earlier process still applies (offset %d became %d)", offset, out.Offset)
		}
	}
	return p.note(func(next *identity) { next.confirm(p.journal.End()) })
}

// highestSession returns the highest session that this directory or the store knows of the last producer, and the producer's
// offsets in the store.
func (id *identity) highestSession(ctx context.Context, st Progress) (highest uint64, offsets []uint64, err error) {
	highest = id.Session
	for i := range id.last().From {
		known, err := st.Producer(ctx, i, id.last().ID)
		if err != nil {
			return 0, nil, err
		}
		if id.foreign(known.Session) {
			return 0, nil, fmt.Errorf("another process has taken partition %d over meanwhile", i)
		}
		highest, offsets = max(highest, known.Session), append(offsets, known.Offset)
	}
	return highest, offsets, nil
}

// claim gives the directory a session that is higher than another.
func (id *identity) claim(highest uint64) {
	id.Met, id.Session = max(id.Met, id.Session), sessionAfter(highest)
}

// confirm notes that the store has confirmed the session in every partition.
func (id *identity) confirm(end uint64) {
	id.Met, id.Opened, id.End = id.Session, nil, max(id.End, end)
}

// ensureSession gives this process a durable session that is no lower than the highest that the store knows. A process has one for all
// its attempts to connect, and takes another only where somebody else has taken over meanwhile: the store keeps the sessions
// that took over.
func (p *applier) ensureSession(highest uint64) error {
	if p.tookOver && p.identity.Session >= highest {
		return nil
	}
	if err := p.note(func(next *identity) { next.claim(highest) }); err != nil {
		return err
	}
	p.tookOver = true
	return nil
}

// note makes durable what edit changes in the identity.
func (p *applier) note(edit func(next *identity)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.identity.change(func(next *identity) error {
		edit(next)
		return nil
	})
}

// sessionBits of a session are random: two copies of a data directory that take over at the same moment, each behind the
// same session, still have sessions of which one is higher.
const sessionBits = 20

// sessionAfter returns a session that is higher than another.
func sessionAfter(session uint64) uint64 {
	return (session>>sessionBits+1)<<sessionBits | rand.Uint64N(1<<sessionBits)
}
