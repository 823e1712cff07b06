package aggregator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// connect meets the store for the first time: it finds out whether what the store holds under our id is ours, takes the
// producer over from an earlier process, and sets every chain to where the store is. It is repeated until it succeeds.
func (p *applier) connect(ctx context.Context) error {
	if err := p.leaveFenced(ctx); err != nil {
		return err
	}
	if err := p.leaveAhead(ctx); err != nil {
		return err
	}
	if err := p.takeOver(ctx); err != nil {
		return err
	}
	for _, c := range p.chains {
		c.load(ctx, nil)
	}
	p.finishCalls()
	for _, c := range p.chains {
		if c.err != nil {
			return c.err
		}
	}
	if err := p.recount(); err != nil {
		return err
	}
	p.position = p.a.journal.End()
	p.rewind(p.behind())
	p.connected = true
	p.setOldest(time.Time{})
	p.log.Info("applying the journal to the store", "producer", p.identity.last().ID, "session", p.identity.Session,
		"applied", p.position, "accepted", p.a.journal.End())
	return nil
}

// load sets the chain to where the store is, and then goes on with then, which may be nil.
func (c *chain) load(ctx context.Context, then func() error) {
	c.loading = true
	producers := c.p.identity.Producers // none is added once the store has been met
	c.call(func() func() error {
		var known []store.Producer
		var err error
		for k := range producers {
			var st store.Producer
			if st, err = c.p.a.cfg.Store.Producer(ctx, c.partition, producers[k].ID); err != nil {
				break
			}
			if known = append(known, st); c.from(k, st) < c.p.identity.until(k, c.partition) {
				break
			}
		}
		return func() error {
			if err != nil {
				return fmt.Errorf("read producer of partition %d: %w", c.partition, err)
			}
			c.set(known)
			return c.seed(ctx, then)
		}
	})
}

// from returns the event behind which a producer goes on.
func (c *chain) from(producer int, st store.Producer) uint64 {
	return max(st.Offset, c.p.identity.Producers[producer].From[c.partition])
}

// set takes over what the store knows of the first producers, of which the last is the one to go on with. The accounts get
// it when pending is counted anew, since the two belong together.
func (c *chain) set(known []store.Producer) {
	c.known = known
	for k, st := range known {
		c.p.a.labels.Learn(st.Totals)
		c.producer, c.until = k, c.p.identity.until(k, c.partition)
		c.stored, c.position, c.totals = st.Offset, c.from(k, st), maps.Clone(st.Totals)
		if c.totals == nil {
			c.totals = meter.Totals{}
		}
	}
}

// seed brings a chain whose next events have left the journal to the checkpoint at the journal's beginning, and then goes
// on with then.
func (c *chain) seed(ctx context.Context, then func() error) error {
	start := c.p.a.journal.Start()
	if c.position+1 >= start {
		c.loading = false
		if then == nil {
			return nil
		}
		return then()
	}
	cp := c.p.checkpoints.at(start - 1)
	if cp == nil || cp.Seq < start-1 {
		return fmt.Errorf("the store has partition %d at event %d, the journal begins at %d, and no checkpoint lies there: "+
			"restore <data>/checkpoints, or the database, from a backup", c.partition, c.position, start)
	}
	batch := &store.Batch{
		Producer: c.id(), Session: c.p.identity.Session, Partition: c.partition, Prev: c.stored, Last: min(cp.Seq, c.until),
		Totals: maps.Clone(cp.totals(c.id(), c.partition, len(c.p.chains))),
	}
	c.call(func() func() error {
		out, err := c.p.a.cfg.Store.Apply(ctx, batch)
		return func() error {
			if err != nil {
				return fmt.Errorf("apply checkpoint to partition %d: %w", c.partition, err)
			}
			if !out.Applied {
				return fmt.Errorf("apply checkpoint to partition %d: the offset %d became %d meanwhile", c.partition, batch.Prev, out.Offset)
			}
			c.p.log.Warn("rebuilding from a checkpoint: what came before has left the journal", "partition", c.partition, "checkpoint_segment", cp.Segment)
			c.load(ctx, then)
			return nil
		}
	})
	return nil
}

// recount reads the journal behind the chain that is furthest behind: it counts what is pending, and collects verdicts.
func (p *applier) recount() error {
	through := p.a.accounts.recount()
	p.awaitVisible(through)
	for _, c := range p.chains {
		for k, st := range c.known {
			p.a.accounts.setTotals(totalsOf{p.identity.Producers[k].ID, c.partition}, st.Totals)
		}
		c.known = nil
	}
	pending := counts{}
	p.verdicts = seqSet{}
	least := p.chains[0].position
	for _, c := range p.chains {
		least = min(least, c.position)
	}
	var failure error
	err := p.records(least, func(rec *journal.Record) bool {
		if rec.Note != nil {
			failure = decodeVerdict(rec.Note, &p.verdicts)
			return failure == nil
		}
		p.each(rec, least, through, func(seq uint64, v *event.View, user userInfo) {
			if seq > p.chains[user.partition].position {
				pending[string(v.Type)]++
			}
		})
		return true
	})
	p.mu.Lock()
	shared := p.identity.Shared
	p.mu.Unlock()
	p.a.accounts.recounted(pending, shared)
	p.lost = false
	return errors.Join(err, failure)
}

// awaitVisible waits until readers of the journal see an event that has been accounted for: an event is accounted for a moment
// earlier.
func (p *applier) awaitVisible(seq uint64) {
	for changed := p.a.journal.Changed(); p.a.journal.End() < seq; changed = p.a.journal.Changed() {
		<-changed
	}
}

// recoverAccepted counts what has been accepted: up to the newest checkpoint as it says, behind it from the journal.
func (p *applier) recoverAccepted() error {
	cp := p.checkpoints.newest().clone()
	if start := p.a.journal.Start(); cp.Seq+1 < start {
		p.log.Error("a checkpoint is missing: the types of the oldest events are unknown", "events", start-1-cp.Seq)
		cp.Accepted.add(event.Other, start-1-cp.Seq)
		cp.Seq = start - 1
	}
	for _, r := range cp.Damaged {
		p.a.accounts.gap(r)
	}
	err := p.records(cp.Seq, func(rec *journal.Record) bool {
		p.each(rec, cp.Seq, allEvents, func(_ uint64, v *event.View, _ userInfo) {
			cp.Accepted.add(string(v.Type), 1)
			cp.Newest.set(string(v.Type), v.AcceptedMillis)
		})
		return true
	})
	p.a.accounts.restore(cp.Accepted, cp.Newest, p.a.journal.End())
	return err
}
