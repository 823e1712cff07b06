package aggregator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// partitionState says what is known of a partition, and so what its worker does next.
type partitionState int32

const (
	// partitionLoading: what the store holds is not known, or not in the accounts yet. Nothing is folded or sent.
	partitionLoading partitionState = iota
	// partitionCatchingUp: the partition stands before the applier, or has a batch that the store has not taken. The worker reads
	// the journal by itself.
	partitionCatchingUp
	// partitionLive: the partition stands where the applier does, which reads the journal for all live partitions at once.
	partitionLive
	// partitionFenced: another process has taken the producer over. The store refuses whatever is sent.
	partitionFenced
)

// partitionStates has the names of the states, as in metrics.
var partitionStates = [...]string{"loading", "catching_up", "live", "fenced"}

func (s partitionState) String() string { return partitionStates[s] }

// partition is one partition of the store on its way through the journal. It has a worker, a goroutine that does one task at a
// time.
//
//	           ┌──────── the store's offset is not ours ───────┐
//	           ▼                                               │
//	loading ──────► catching up ◄──────────────────────────► live
//	    adopted by     │    stands where the applier does       │
//	    the accounts   │    a batch failed, or it missed some   │
//	                   └──────────────► fenced ◄───────────────┘
//
// Fields without a remark belong to the applier's goroutine while the worker is idle, and to the worker while it is busy. How far the
// partition is counted stands in the accounts, beside the totals that say what was counted, so that the two change together.
type partition struct {
	*counting
	index int
	done  chan<- outcome // of tasks
	state atomic.Int32   // a partitionState; changed by whoever owns the fields

	// producer is the index of the producer being applied, in identity.Producers. until is where its events end, and stored is its
	// offset in the store. totals are its totals there.
	producer int
	until    uint64
	stored   uint64
	// session is the one under which batches are applied, see sessionOf.
	session uint64
	totals  meter.Totals

	fold  fold
	batch *batch // what the store has not taken yet; it is tried again until it has an answer
	// loaded is what the store holds, until the accounts have adopted it. It is made aside: whatever fails meanwhile, the
	// partition and the accounts stay as they were.
	loaded *loadedPartition
	users  *users // for reading the journal alone, nil until that happens

	// Of the applier's goroutine alone.
	folding bool // takes part in the fold that is being made
	busy    bool // the worker has a task
	slow    bool // it has not answered in time, see collect
	err     error
	retry   backoff
	retryAt time.Time
	unread  int  // failed attempts to read the journal in a row
	stopped bool // says that it was reported, see readFailed

	tasks chan task
}

// task is what a worker does next. The partition's state says what kind of task it is.
type task struct {
	ctx context.Context
	// through is the end of the fold, for a live partition, or where the applier stands, for one that catches up.
	through uint64
	// confirm asks a live partition to compare the store's offset with its own, and to move it on to through, in place of a
	// fold.
	confirm bool
}

func newPartition(c *counting, index int, done chan<- outcome) *partition {
	return &partition{counting: c, index: index, done: done, tasks: make(chan task, 1)}
}

// run does the tasks, and reports the end of each.
func (c *partition) run() {
	for t := range c.tasks {
		c.done <- outcome{c, c.work(t)}
	}
}

func (c *partition) work(t task) error {
	err := c.workIn(c.current(), t)
	if !errors.Is(err, store.ErrFenced) {
		return err
	}
	if !c.onLastProducer() {
		return c.load(t.ctx) // a copy of this directory has gone on with an earlier producer
	}
	c.become(partitionFenced)
	return err
}

func (c *partition) workIn(state partitionState, t task) error {
	switch {
	case state == partitionLoading:
		return c.load(t.ctx)
	case state == partitionCatchingUp:
		return c.catchUp(t.ctx, t.through)
	case state == partitionLive && t.confirm:
		return c.confirm(t.ctx, t.through)
	case state == partitionLive:
		return c.apply(t.ctx, t.through)
	}
	return store.ErrFenced
}

func (c *partition) current() partitionState  { return partitionState(c.state.Load()) }
func (c *partition) become(s partitionState)  { c.state.Store(int32(s)) }
func (c *partition) is(s partitionState) bool { return c.current() == s }
func (c *partition) position() uint64         { return c.accounts.Position(c.index) }
func (c *partition) id() string               { return c.identity.Producers[c.producer].ID }
func (c *partition) totalsOf() ledger.Of      { return ledger.Of{Producer: c.id(), Partition: c.index} }
func (c *partition) onLastProducer() bool     { return c.producer == len(c.identity.Producers)-1 }
func (c *partition) full() bool               { return c.folding && c.overfull() }

// overfull says that the fold has as many cells as one Apply should take.
func (c *partition) overfull() bool {
	limit := c.store.MaxCells()
	return limit > 0 && c.fold.cells() >= limit
}

// apply ends the fold at an event and has the store apply it.
func (c *partition) apply(ctx context.Context, through uint64) error {
	// Whatever fails from here on, the events of the fold are the worker's to bring to the store.
	c.become(partitionCatchingUp)
	c.endFold(through)
	if err := c.send(ctx); err != nil || !c.is(partitionCatchingUp) {
		return err
	}
	if c.position() >= through {
		c.become(partitionLive)
	}
	return nil
}

// catchUp sends the batch that failed, or what the partition has missed, one fold at a time.
func (c *partition) catchUp(ctx context.Context, through uint64) error {
	if c.batch == nil {
		position := c.position()
		if position >= c.until {
			if err := c.confirm(ctx, position); err != nil { // else the store would send us back to the last event that is ours
				return err
			}
			return c.load(ctx) // on to the next producer
		}
		through = min(through, c.until)
		if position >= through {
			return nil
		}
		if err := c.read(through); err != nil {
			return err
		}
	}
	return c.send(ctx)
}

// read folds the partition's events after its position, up to target, to the end of an epoch, or until there are enough for one
// batch, and ends the fold. On an error there is no batch, and the partition stands where it stood.
func (c *partition) read(target uint64) error {
	after := c.position()
	e, through, err := c.history.at(after + 1)
	if err != nil {
		return err
	}
	c.fold.reset(e, c.counting, after)
	if c.users == nil {
		c.users = newUsers(c.store.Partitions())
	}
	target = min(target, through)
	position, n, more := after, 0, true
	err = c.records(after, func(rec *journal.Record) bool {
		if rec.Note != nil {
			return true
		}
		each(c.users, rec, after, target, func(seq uint64, v *event.View, user userInfo) {
			if user.partition == c.index {
				c.fold.add(seq, v, user.name)
				n++
			}
		})
		position = max(position, min(target, rec.First+uint64(rec.N)-1))
		more = position < target && n < maxFoldEvents && !c.overfull()
		return more
	})
	if err != nil {
		return err
	}
	if more { // what the journal lacks at its end is damaged
		position = target
	}
	c.endFold(position)
	return nil
}

// endFold makes the batch of a fold that ends at an event, none where nothing was folded.
func (c *partition) endFold(last uint64) {
	if c.fold.empty() {
		c.accounts.Advance(c.index, last)
		return
	}
	c.batch = newBatch(store.Batch{
		Producer: c.id(), Session: c.session, Partition: c.index, Prev: c.stored, Last: last,
	}, &c.fold, c.totals, c.accounts.Name)
}

// send has the store apply the batch, if there is one. On an error it is kept, and sent again by the next task.
func (c *partition) send(ctx context.Context) error {
	for c.batch != nil {
		b := c.batch
		if err := c.journalVerdicts(b.duplicates); err != nil {
			return err
		}
		b.duplicates = nil
		began := time.Now()
		out, err := c.store.Apply(ctx, &b.Batch)
		c.metrics.applyDuration.Observe(time.Since(began).Seconds())
		switch {
		case err != nil:
			return fmt.Errorf("apply to partition %d: %w", c.index, err)
		case out.Applied:
			c.finish(out)
		case len(out.Taken) > 0:
			if err := c.foldAgain(out.Taken); err != nil {
				return err
			}
		default:
			// The batch took effect although its answer was lost, or the store was rolled back. What it holds decides.
			if out.Offset == b.Last {
				c.metrics.applied(b.stats, out.Overflow, b.overflow, b.unverified)
			}
			return c.follow(ctx, out.Offset)
		}
	}
	return nil
}

// foldAgain replaces the batch by one without the events whose ids the store knows. The old batch is gone before the journal is
// read: where that fails, the events are read again by the next task, and nothing is left that could be sent.
func (c *partition) foldAgain(taken []int) error {
	if err := c.journalVerdicts(c.batch.events(taken)); err != nil {
		return err
	}
	last := c.batch.Last
	c.batch = nil
	return c.read(last)
}

// finish takes note of a batch that the store has taken.
func (c *partition) finish(out store.Outcome) {
	b := c.batch
	c.batch = nil
	c.stored = b.Last
	maps.Copy(c.totals, b.Totals)
	c.metrics.applied(b.stats, out.Overflow, b.overflow, b.unverified) // first: who sees nothing pending sees it
	c.accounts.Apply(c.totalsOf(), b.moved, b.Totals, b.Last)
}

// confirm moves the store's offset to last with an empty batch, which finds out if the store is elsewhere.
func (c *partition) confirm(ctx context.Context, last uint64) error {
	b := &store.Batch{
		Producer: c.id(), Session: c.session, Partition: c.index,
		Prev: c.stored, Last: max(min(last, c.until), c.stored),
	}
	out, err := c.store.Apply(ctx, b)
	if err != nil {
		return fmt.Errorf("compare offset of partition %d: %w", c.index, err)
	}
	if !out.Applied {
		return c.follow(ctx, out.Offset)
	}
	c.stored = out.Offset
	return nil
}

// follow goes to the offset found in the store: forward where a batch had taken effect unnoticed, back where the store has lost
// some.
func (c *partition) follow(ctx context.Context, found uint64) error {
	if found < c.stored {
		c.metrics.rewinds.Inc()
		c.log.Warn("store has lost what was applied to it; applying it again from the journal",
			"partition", c.index, "applied", c.stored, "found", found)
	}
	return c.load(ctx)
}
