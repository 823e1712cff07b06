package aggregator

import (
	"context"
	"errors"
	"maps"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/ids"
	"usaged/aggregator/journal"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
)

const (
	// maintainInterval is how often retention is looked after.
	maintainInterval = time.Minute
	// graceDays is how much longer than the days that are kept the journal keeps events: a rollup of the oldest day can
	// be rebuilt whole, wherever on the earth and however late its events were sent. A store that is told what to delete
	// keeps rollups as long, so that whoever raises the retention has all that the journal has.
	graceDays = 3
)

// maintain writes checkpoints, begins a segment each day, and deletes what is past its time.
func (p *applier) maintain(ctx context.Context) {
	if err := p.checkpoint(); err != nil {
		p.checkpointAt = time.Now().Add(maxBackoff)
		p.metrics.checkpointErrors.Inc()
		p.log.Error("no checkpoint could be written; segments are kept until one can", "err", err)
	}
	now := time.Now()
	today := event.DayOf(p.now())
	if now.Sub(p.lastMaintenance) < maintainInterval && today == p.day {
		return
	}
	p.lastMaintenance = now
	if p.day != today && p.day != 0 {
		// A segment of its own for each day, so that retention doesn't wait for little traffic to fill one.
		if err := p.journal.Roll(); err != nil {
			p.log.Warn("segment could not be ended at midnight", "err", err)
		}
	}
	p.day = today
	if err := p.store.Expire(ctx, p.keep.oldestStored(p.keep.keptDays()), p.keep.deletion()); err != nil {
		p.metrics.storeErrors.Inc()
		p.log.Warn("expired days could not be removed from the store; retrying in a minute", "err", err)
	}
	p.extend(ctx)
	p.announceExpiry(ctx)
	p.retire()
}

// checkpoint writes the checkpoints of sealed segments that have been applied.
func (p *applier) checkpoint() error {
	if time.Now().Before(p.checkpointAt) {
		return nil
	}
	newest := p.checkpoints.newest()
	applied := p.accounts.CountedThrough()
	for _, seg := range p.journal.Segments() {
		if !seg.Sealed || seg.Index <= newest.Segment || seg.Last > applied {
			continue
		}
		cp := p.current(seg, applied)
		if cp == nil {
			var err error
			if cp, err = p.recompute(newest, seg); err != nil {
				return err
			}
		}
		cp.Segment, cp.Seq = seg.Index, seg.Last
		if err := p.checkpoints.write(cp); err != nil {
			return err
		}
		newest = cp
	}
	return nil
}

// current returns the checkpoint of a segment at whose end all partitions stand now, nil where they don't.
func (p *applier) current(seg journal.Segment, applied uint64) *checkpoint {
	if seg.Last != applied {
		return nil
	}
	now, ok := p.accounts.At(applied)
	if !ok {
		return nil
	}
	cp := &checkpoint{Accepted: ledger.Counts{}, Newest: now.Newest, Damaged: now.Damaged, Totals: map[string][]meter.Totals{}}
	for _, producer := range p.identity.Producers {
		for i := range p.partitions {
			totals := cp.totals(producer.ID, i, len(p.partitions))
			maps.Copy(totals, now.Totals[ledger.Of{Producer: producer.ID, Partition: i}])
			cp.Accepted.AddApplied(totals) // everything accepted up to here is in them; its type was admitted then
		}
	}
	return cp
}

// recompute makes the checkpoint of a segment from the one before and the journal: the verdicts on its events are all
// journalled, so counting them again gives the same totals.
func (p *applier) recompute(base *checkpoint, seg journal.Segment) (*checkpoint, error) {
	cp := base.clone()
	var verdicts seqset.Set
	var failure error
	err := p.records(base.Seq, func(rec *journal.Record) bool {
		if rec.Note != nil {
			failure = ids.DecodeVerdict(rec.Note, &verdicts)
		}
		return failure == nil
	})
	if err == nil {
		err = failure
	}
	if err != nil {
		return nil, err
	}
	again := &refold{counting: p.counting, folds: map[refoldKey]*meter.Folder{}}
	err = p.records(base.Seq, func(rec *journal.Record) bool {
		if rec.Gap > 0 {
			cp.Damaged = append(cp.Damaged, seqset.Run{First: rec.First - rec.Gap, Last: rec.First - 1})
		}
		each(p.users, rec, base.Seq, seg.Last, func(seq uint64, v *event.View, user userInfo) {
			cp.Accepted.Add(string(v.Counted), 1)
			cp.Newest.Set(string(v.Counted), v.AcceptedMillis)
			switch f := again.folder(user.partition, seq); {
			case f == nil:
			case verdicts.Has(seq):
				f.Duplicate(v)
			default:
				f.Add(v, user.name)
			}
		})
		return again.err == nil && rec.First+uint64(rec.N) <= seg.Last
	})
	return cp, errors.Join(err, again.addTo(cp))
}

// retire deletes the segments that are applied, in a checkpoint, and older than retention plus graceDays, or older than
// the newest that fit into the size limit.
func (p *applier) retire() {
	segments := p.journal.Segments()
	deadline := p.keep.journalDeadline(p.keep.keptDays())
	var total int64
	for _, seg := range segments {
		total += seg.Bytes
	}
	through, early := -1, false
	newest, applied := p.checkpoints.newest().Segment, p.accounts.CountedThrough() // which is before the newest where the store has lost something
	for _, seg := range segments {
		tooLarge := p.retentionBytes > 0 && total > p.retentionBytes
		expired := seg.Newest.Before(deadline)
		if !seg.Sealed || seg.Index > newest || seg.Last > applied || !tooLarge && !expired {
			break
		}
		through, total = seg.Index, total-seg.Bytes
		early = early || !expired && seg.Last >= seg.First
	}
	if through < 0 {
		return
	}
	if early {
		p.metrics.retiredEarly.Set(1)
		p.log.Warn("the journal exceeds --retention.size: events inside the retention window are deleted, and their days can no longer be rebuilt; raise the limit or the disk's size",
			"limit_bytes", p.retentionBytes, "through_segment", through)
	}
	if err := p.journal.Remove(through); err != nil {
		p.log.Warn("old segments could not be deleted; retrying in a minute", "err", err)
		return
	}
	if err := p.checkpoints.prune(p.journal.Start()); err != nil {
		p.log.Warn("old checkpoints could not be deleted", "err", err)
	}
}
