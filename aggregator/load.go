package aggregator

import (
	"context"
	"fmt"
	"maps"

	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// loadedPartition is what the store holds of a partition, and where to go on.
type loadedPartition struct {
	producers []store.Producer // those up to the one to go on with
	position  uint64
}

// load finds out what the store holds, for the accounts to adopt. A partition whose next events have left the journal is brought to
// the checkpoint at the journal's beginning first.
func (c *partition) load(ctx context.Context) error {
	c.become(partitionLoading)
	c.batch, c.loaded = nil, nil
	for range len(c.identity.Producers) + 1 { // a checkpoint may bring it to the end of one, and on to the next
		l, err := c.ask(ctx)
		if err != nil {
			return err
		}
		if k := len(l.producers) - 1; k < len(c.identity.Producers)-1 && l.position < c.identity.until(k, c.index) {
			if err := c.identity.markShared(ctx, c.store, k, c.index, c.digestOf); err != nil {
				return fmt.Errorf("note what partition %d shares with the original: %w", c.index, err)
			}
		}
		start := c.journal.Start()
		if l.position+1 >= start {
			c.loaded = l
			return nil
		}
		if err := c.seed(ctx, l, start); err != nil {
			return err
		}
	}
	return fmt.Errorf("partition %d of the store falls back whenever a checkpoint is applied to it: look whether another program writes to it", c.index)
}

// ask reads what the store knows of the producers, up to the one to go on with.
func (c *partition) ask(ctx context.Context) (*loadedPartition, error) {
	l := &loadedPartition{}
	identity := c.identity // no producer is added once the store has been met
	for k := range identity.Producers {
		st, err := c.store.Producer(ctx, c.index, identity.Producers[k].ID)
		if err != nil {
			return nil, fmt.Errorf("read producer of partition %d: %w", c.index, err)
		}
		l.producers = append(l.producers, st)
		l.position = max(st.Offset, identity.Producers[k].From[c.index])
		if l.position < identity.until(k, c.index) {
			break
		}
	}
	return l, nil
}

// seed applies the checkpoint at the journal's beginning.
func (c *partition) seed(ctx context.Context, l *loadedPartition, start uint64) error {
	k := len(l.producers) - 1
	id := c.identity.Producers[k].ID
	cp, totals := c.checkpoints.totalsAt(start-1, id, c.index)
	if cp == nil || cp.Seq < start-1 {
		return fmt.Errorf("the store has partition %d at event %d, the journal begins at %d, and no checkpoint lies there: "+
			"restore <data>/checkpoints, or the database, from a backup", c.index, l.position, start)
	}
	b := &store.Batch{
		Producer: id, Session: c.sessionOf(k, l.producers[k]), Partition: c.index, Prev: l.producers[k].Offset,
		Last: min(cp.Seq, c.identity.until(k, c.index)), Totals: totals,
	}
	out, err := c.store.Apply(ctx, b)
	if err != nil {
		return fmt.Errorf("apply checkpoint to partition %d: %w", c.index, err)
	}
	if !out.Applied {
		return fmt.Errorf("apply checkpoint to partition %d: the offset %d became %d meanwhile", c.index, b.Prev, out.Offset)
	}
	c.log.Warn("rebuilding from a checkpoint: what came before has left the journal", "partition", c.index, "checkpoint_segment", cp.Segment)
	return nil
}

// sessionOf returns the session under which a producer's events are applied: ours for the last producer, and for one before it
// whatever the store has, since its events are the same in all copies of this directory and none needs to keep the others
// from them.
func (c *partition) sessionOf(producer int, stored store.Producer) uint64 {
	if producer == len(c.identity.Producers)-1 {
		return c.identity.Session
	}
	return max(stored.Session, sharedSession)
}

// adopt goes on from what was loaded, which the accounts have adopted.
func (c *partition) adopt() {
	l := c.loaded
	c.loaded = nil
	c.producer = len(l.producers) - 1
	c.until = c.identity.until(c.producer, c.index)
	last := l.producers[c.producer]
	c.stored, c.totals = last.Offset, maps.Clone(last.Totals)
	c.session = c.sessionOf(c.producer, last)
	if c.totals == nil {
		c.totals = meter.Totals{}
	}
	c.become(partitionCatchingUp)
}
