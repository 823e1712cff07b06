package aggregator

import (
	"context"
	"errors"
	"slices"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/ids"
	"usaged/aggregator/journal"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
)

// connect meets the store for the first time: it finds out whether what the store holds under our id is ours, takes the
// producer over from an earlier process, and loads every partition. It is repeated until it succeeds.
func (p *applier) connect(ctx context.Context) error {
	for _, step := range []func(context.Context) error{p.disown, p.noticeAhead, p.takeOver, p.orderRestore} {
		if err := step(ctx); err != nil {
			p.metrics.storeErrors.Inc()
			return err
		}
	}
	for _, c := range p.partitions {
		p.start(c, task{ctx: ctx})
	}
	p.finishTasks()
	for _, c := range p.partitions {
		if c.err != nil {
			return c.err
		}
	}
	if err := p.recount(p.partitions); err != nil {
		for _, c := range p.partitions {
			p.settle(c, err)
		}
		return err
	}
	p.position = p.journal.End()
	if slices.ContainsFunc(p.partitions, func(c *partition) bool { return !c.onLastProducer() }) {
		p.rewind(p.position) // a partition that is with an earlier producer reads on its own until it has caught up
	} else {
		p.rewind(p.accounts.CountedThrough())
	}
	p.connected = true
	p.setOldest(time.Time{})
	p.log.Info("applying the journal to the store", "producer", p.identity.last().ID, "session", p.identity.Session,
		"applied", p.position, "accepted", p.journal.End())
	return nil
}

// adopt has the accounts adopt what was loaded, and count pending anew where events turned out to be damaged. What fails is tried again
// when it is due; until then the partitions concerned wait, and all others go on.
func (p *applier) adopt() {
	var loaded []*partition
	for _, c := range p.partitions {
		if c.due() && c.loaded != nil {
			loaded = append(loaded, c)
		}
	}
	now := time.Now()
	if len(loaded) == 0 && (!p.accounts.RecountDue() || now.Before(p.recountAt)) {
		return
	}
	err := p.recount(loaded)
	if err == nil {
		return
	}
	if p.recountAt = now.Add(maxReadBackoff); len(loaded) == 0 {
		p.metrics.readErrors.Inc()
		p.log.Warn("what is pending could not be counted anew; retrying", "reason", reasonOf(err), "err", err, "retry_seconds", maxReadBackoff.Seconds())
	}
	for _, c := range loaded {
		p.settle(c, err)
	}
}

// recount counts what is pending and collects verdicts, by reading the journal after the partition that is furthest back. The
// partitions that were loaded go on from where the store has them. Everything is counted aside and then adopted at once: on an
// error all stays as it was.
func (p *applier) recount(loaded []*partition) error {
	moved, totals := map[int]uint64{}, map[ledger.Of]meter.Totals{}
	for _, c := range loaded {
		moved[c.index] = c.loaded.position
		for k, st := range c.loaded.producers {
			totals[ledger.Of{Producer: p.identity.Producers[k].ID, Partition: c.index}] = st.Totals
		}
	}
	r := p.accounts.BeginRecount(moved)
	p.awaitVisible(r.Through)
	waiting, found, err := p.countPending(r)
	if err != nil {
		p.accounts.AbandonRecount()
		return err
	}
	p.verdicts.AddAll(found)
	p.accounts.FinishRecount(waiting, totals, moved, p.identity.spans())
	for _, c := range loaded {
		for _, st := range c.loaded.producers {
			p.labels.Learn(st.Totals)
		}
		c.adopt()
	}
	return nil
}

// countPending reads the journal for a recount.
func (p *applier) countPending(r *ledger.Recount) (pending ledger.Waiting, found *seqset.Set, err error) {
	pending, found = ledger.Waiting{Types: ledger.Counts{}, Producers: map[string]uint64{}}, &seqset.Set{}
	least := slices.Min(r.Positions)
	var failure error
	err = p.records(least, func(rec *journal.Record) bool {
		if rec.Note != nil {
			failure = ids.DecodeVerdict(rec.Note, found)
			return failure == nil
		}
		each(p.users, rec, least, r.Through, func(seq uint64, v *event.View, user userInfo) {
			if seq > r.Positions[user.partition] {
				pending.Types[string(v.Counted)]++
				pending.Producers[p.identity.Producers[p.identity.producerOf(user.partition, seq)].ID]++
			}
		})
		return true
	})
	return pending, found, errors.Join(err, failure)
}

// reloadInterval is how often the totals are read from the store again while the ledger does not balance.
const reloadInterval = time.Minute

// checkBalance looks whether the accounts balance. Where they don't, all that they are made of is counted anew: the totals are read from
// the store, and what is pending from the journal.
func (p *applier) checkBalance(now time.Time) {
	accepted, accounted, wrong := p.accounts.Imbalance()
	if !wrong {
		if p.unbalanced {
			p.log.Info("the ledger balances again", "accepted", accepted)
		}
		p.unbalanced = false
		return
	}
	if now.Sub(p.lastReload) < reloadInterval && p.unbalanced {
		return
	}
	p.unbalanced, p.lastReload = true, now
	p.metrics.recounts.Inc()
	p.log.Error("the ledger does not balance: counting it anew from the store and the journal. If this goes on for minutes, the store or a "+
		"file of the data directory was changed by another hand: run usagectl doctor, and rebuild the rollups from the journal",
		"accepted", accepted, "accounted", accounted)
	for _, c := range p.partitions {
		if !c.busy && (c.is(partitionLive) || c.is(partitionCatchingUp)) {
			c.batch = nil // its events are read again
			c.become(partitionLoading)
		}
	}
}

// awaitVisible waits until readers of the journal see an event that has been accounted for: an event is accounted for a moment
// earlier.
func (p *applier) awaitVisible(seq uint64) {
	for changed := p.journal.Changed(); p.journal.End() < seq; changed = p.journal.Changed() {
		<-changed
	}
}

// recoverAccepted counts what has been accepted: up to the newest checkpoint as it says, behind it from the journal.
func (p *applier) recoverAccepted() error {
	cp := p.checkpoints.newest().clone()
	if start := p.journal.Start(); cp.Seq+1 < start {
		p.log.Error("a checkpoint is missing: the types of the oldest events are unknown", "events", start-1-cp.Seq)
		cp.Accepted.Add(event.Other, start-1-cp.Seq)
		cp.Seq = start - 1
	}
	for _, r := range cp.Damaged {
		p.accounts.Gap(r)
	}
	err := p.records(cp.Seq, func(rec *journal.Record) bool {
		each(p.users, rec, cp.Seq, allEvents, func(_ uint64, v *event.View, _ userInfo) {
			cp.Accepted.Add(string(v.Counted), 1)
			cp.Newest.Set(string(v.Counted), v.AcceptedMillis)
		})
		return true
	})
	p.accounts.Restore(cp.Accepted, cp.Newest, p.journal.End())
	return err
}
