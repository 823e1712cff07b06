package aggregator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// chain is one partition's way through the journal: what has been applied to it, and the batch being made.
type chain struct {
	p         *applier
	partition int

	// producer is the index of the producer being applied, in identity.Producers. until is where its events end.
	producer int
	until    uint64
	// stored is the producer's offset in the store; position is how far the journal has been seen, which is further where
	// no event behind stored belongs to this partition.
	stored, position uint64
	totals           meter.Totals

	// The fold. folding says that this chain takes part in it.
	folding bool
	epoch   *epoch // of all events of the fold
	folder  *meter.Folder
	now     time.Time
	claims  []store.Claim
	claimed []uint64           // the events that make the claims
	checks  []store.Claim      // other ids that must not be taken, see idScope
	checked []uint64           // the events that make the checks
	seen    map[[16]byte]int64 // acceptance of the ids of this fold
	found   []uint64           // duplicates within this fold that have no verdict yet

	// batch is what is being applied; it is kept after an error and tried again.
	batch   *store.Batch
	moved   counts // the batch's events per type, duplicates included
	stats   meter.Stats
	turned  map[string]uint64 // see meter.Delta.Overflow
	unknown uint64            // events of the batch whose ids were too old to be checked

	// loading says that what the store holds is not read yet, and known what of it the accounts don't include yet. See load.
	loading bool
	known   []store.Producer

	// calling says that the store is being asked something, late that it has not answered in time. See call.
	calling, late bool

	// err is how the last attempt ended, retryAt when the next one is due.
	err     error
	retry   backoff
	retryAt time.Time
}

func newChain(p *applier, partition int) *chain {
	return &chain{p: p, partition: partition, seen: map[[16]byte]int64{}}
}

// id is the producer's id.
func (c *chain) id() string { return c.p.identity.Producers[c.producer].ID }

// current says that the chain applies the last producer's events, which are the new ones. Those of an earlier producer
// are applied apart, so that no batch spans two.
func (c *chain) current() bool { return c.producer == len(c.p.identity.Producers)-1 }

// free says that nothing of the chain is on its way to the store, or from there.
func (c *chain) free() bool { return c.batch == nil && !c.calling && !c.loading }

// begin starts a fold of events of an epoch, and says whether the chain takes part in it.
func (c *chain) begin(e *epoch) bool {
	c.folding = c.position >= c.p.position && c.free() && c.current()
	if c.folding {
		c.reset(e)
	}
	return c.folding
}

func (c *chain) reset(e *epoch) {
	if c.epoch != e {
		c.epoch, c.folder = e, meter.NewFolder(e.Meters, c.p.a.labels.Labels)
	}
	c.folder.Reset(c.p.a.Oldest())
	c.unknown = 0
	c.now = c.p.a.cfg.Now()
	c.claims, c.claimed, c.found = c.claims[:0], c.claimed[:0], c.found[:0]
	c.checks, c.checked = c.checks[:0], c.checked[:0]
	clear(c.seen)
}

// add folds one event.
func (c *chain) add(seq uint64, v *event.View, user string) {
	if len(v.ID) > 0 && c.duplicate(seq, v) {
		c.folder.Duplicate(v)
		return
	}
	c.folder.Add(v, user)
}

// duplicate judges an event with a client's id as far as that is possible without the store, and claims the id.
func (c *chain) duplicate(seq uint64, v *event.View) bool {
	if c.p.verdicts.has(seq) {
		return true
	}
	digests := c.p.a.ids.of(v)
	if digests.near(c.seen, v.AcceptedMillis) {
		c.found = append(c.found, seq)
		return true
	}
	c.seen[digests.claim] = v.AcceptedMillis
	if c.now.UnixMilli()-v.AcceptedMillis > verifiableAge.Milliseconds() {
		if seq > c.p.checkpoints.newest().Seq { // up to there it has been counted before, when it could be checked
			c.unknown++
		}
		return false
	}
	c.claims = append(c.claims, store.Claim{Digest: digests.claim, AcceptedMillis: v.AcceptedMillis})
	c.claimed = append(c.claimed, seq)
	for _, other := range digests.others[:digests.n] {
		c.checks = append(c.checks, store.Claim{Digest: other, AcceptedMillis: v.AcceptedMillis})
		c.checked = append(c.checked, seq)
	}
	return false
}

// within says whether two acceptances of an id are so close that they are one event's.
func within(a, b int64) bool {
	return max(a-b, b-a) < store.DuplicateWindow.Milliseconds()
}

// prepare ends the fold at position and makes its batch, none where nothing was folded.
func (c *chain) prepare(position uint64) error {
	c.folding = false
	stats := c.folder.Stats()
	if stats.Events+stats.Duplicates == 0 {
		c.position = max(c.position, position)
		return nil
	}
	// The batch is made also where a verdict cannot be journalled, so that it is tried again.
	c.makeBatch(position)
	return c.judge(c.found)
}

// claimCost is how many cells a claim counts for: ids arrive in random order, so each one takes the store a page of its own.
const claimCost = 2

// full says that the fold has as many cells as one Apply should take.
func (c *chain) full() bool {
	limit := c.p.a.cfg.Store.MaxCells()
	return limit > 0 && c.folder.Cells()+claimCost*(len(c.claims)+len(c.checks)) >= limit
}

// judge makes durable what a batch builds on: the labels that it uses, and verdicts, which it journals.
func (c *chain) judge(duplicates []uint64) error {
	if err := c.p.a.labels.save(); err != nil {
		return err
	}
	if len(duplicates) == 0 {
		return nil
	}
	if err := c.p.a.journal.Note(encodeVerdict(duplicates)); err != nil {
		return fmt.Errorf("journal verdicts: %w", err)
	}
	c.p.verdicts.add(duplicates...)
	c.found = c.found[:0]
	return nil
}

func (c *chain) makeBatch(position uint64) {
	delta := c.folder.Delta()
	c.moved = counts{}
	for s, n := range delta.Totals {
		if s.Family == meter.FamilyEvents || s.Family == meter.FamilyDuplicates {
			c.moved[s.A] += n
		}
	}
	totals := maps.Clone(c.totals)
	changed := addTotals(totals, delta.Totals, c.p.a.accounts.name)
	c.stats, c.turned = c.folder.Stats(), delta.Overflow
	c.batch = &store.Batch{
		Producer:  c.id(),
		Session:   c.p.identity.Session,
		Partition: c.partition,
		Prev:      c.stored,
		Last:      position,
		Days:      delta.Days,
		Totals:    changed,
		Claims:    c.claims,
		Checks:    c.checks,
	}
}

// send has the batch applied, if there is one.
func (c *chain) send(ctx context.Context) error {
	if c.batch == nil {
		return nil
	}
	if err := c.judge(c.found); err != nil {
		return err
	}
	batch, began := c.batch, time.Now()
	c.call(func() func() error {
		out, err := c.p.a.cfg.Store.Apply(ctx, batch)
		c.p.a.metrics.applyDuration.Observe(time.Since(began).Seconds())
		return func() error { return c.conclude(ctx, out, err) }
	})
	return nil
}

// conclude goes on from the store's answer to the batch.
func (c *chain) conclude(ctx context.Context, out store.Outcome, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("apply to partition %d: %w", c.partition, err)
	case out.Applied:
		c.finish(out)
		return nil
	case len(out.Taken) > 0:
		if err := c.refold(c.events(out.Taken)); err != nil {
			return err
		}
		return c.send(ctx)
	default:
		// The batch took effect although its reply was lost, or the store was rolled back. What it holds decides.
		if out.Offset == c.batch.Last {
			c.p.a.metrics.applied(c.stats, out.Overflow, c.turned, c.unknown)
		}
		return c.moveTo(ctx, out.Offset)
	}
}

// events returns the events that make claims or checks of the batch, each of them once.
func (c *chain) events(taken []int) []uint64 {
	var set seqSet
	for _, i := range taken {
		if i < len(c.claimed) {
			set.add(c.claimed[i])
		} else {
			set.add(c.checked[i-len(c.claimed)])
		}
	}
	return set.all()
}

// refold folds the batch's events again, without duplicates that the store knows of.
func (c *chain) refold(duplicates []uint64) error {
	if err := c.judge(duplicates); err != nil {
		return err
	}
	position, err := c.read(c.batch.Last)
	if err != nil {
		return err
	}
	c.makeBatch(position)
	return c.judge(c.found)
}

// read folds this chain's events behind its position, up to target, to the end of an epoch, or until there are enough for
// one fold. It returns where it ended.
func (c *chain) read(target uint64) (uint64, error) {
	e, through, err := c.p.a.history.at(c.position + 1)
	if err != nil {
		return 0, err
	}
	c.reset(e)
	target = min(target, through)
	position, n, more := c.position, 0, true
	err = c.p.records(c.position, func(rec *journal.Record) bool {
		if rec.Note != nil {
			return true
		}
		c.p.each(rec, c.position, target, func(seq uint64, v *event.View, user userInfo) {
			if user.partition == c.partition {
				c.add(seq, v, user.name)
				n++
			}
		})
		position = max(position, min(target, rec.First+uint64(rec.N)-1))
		more = position < target && n < maxFoldEvents && !c.full()
		return more
	})
	if more { // what the journal lacks at its end is damaged
		position = target
	}
	return position, err
}

// finish takes note of a batch that the store has taken.
func (c *chain) finish(out store.Outcome) {
	batch := c.batch
	c.batch = nil
	c.stored = batch.Last
	c.position = max(c.position, batch.Last)
	maps.Copy(c.totals, batch.Totals)
	c.p.a.metrics.applied(c.stats, out.Overflow, c.turned, c.unknown) // first: who sees nothing pending sees it
	c.p.a.accounts.apply(totalsOf{batch.Producer, c.partition}, c.moved, batch.Totals)
}

// confirm moves the store's offset to last with an empty batch, which finds out if the store is elsewhere.
func (c *chain) confirm(ctx context.Context, last uint64) {
	batch := &store.Batch{
		Producer:  c.id(),
		Session:   c.p.identity.Session,
		Partition: c.partition,
		Prev:      c.stored,
		Last:      max(min(last, c.until), c.stored),
	}
	c.call(func() func() error {
		out, err := c.p.a.cfg.Store.Apply(ctx, batch)
		return func() error {
			if err != nil {
				return fmt.Errorf("compare offset of partition %d: %w", c.partition, err)
			}
			if !out.Applied {
				return c.moveTo(ctx, out.Offset)
			}
			c.stored = out.Offset
			return nil
		}
	})
}

// moveTo follows the store to the offset found there: forward where a batch had taken effect unnoticed, back where the
// store has lost some.
func (c *chain) moveTo(ctx context.Context, found uint64) error {
	if found < c.stored {
		c.p.a.metrics.rewinds.Inc()
		c.p.log.Warn("store has lost what was applied to it; applying it again from the journal",
			"partition", c.partition, "applied", c.stored, "found", found)
	}
	c.batch = nil
	c.load(ctx, c.p.recount)
	return nil
}

// due says that nothing forbids an attempt now.
func (c *chain) due() bool { return !c.calling && (c.err == nil || !time.Now().Before(c.retryAt)) }

// missing says that the chain has something to catch up with, which begin leaves to it.
func (c *chain) missing() bool { return c.position < c.p.position || c.batch != nil || c.loading }

// catchUp sends the batch that failed, or what the chain has missed, one fold at a time.
func (c *chain) catchUp(ctx context.Context) error {
	switch {
	case c.batch != nil:
		return c.send(ctx)
	case c.loading || c.position >= c.until: // it could not be read, or on to the next producer
		c.load(ctx, c.p.recount)
		return nil
	}
	position, err := c.read(min(c.p.position, c.until))
	if err != nil {
		return err
	}
	if err := c.prepare(position); err != nil {
		return err
	}
	return c.send(ctx)
}

// records calls f for the records behind after, until it returns false or the journal ends.
func (p *applier) records(after uint64, f func(*journal.Record) bool) error {
	r, err := p.a.journal.Reader(after)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	defer r.Close() //nolint:errcheck // it was only read
	for {
		end := p.a.journal.End()
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			p.endDamaged(after, end)
			return nil
		}
		if err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		p.noteGap(&rec)
		after = max(after, rec.First+uint64(rec.N)-1)
		if !f(&rec) {
			return nil
		}
	}
}
