package aggregator

import (
	"fmt"
	"log/slog"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/ids"
	"usaged/aggregator/journal"
	"usaged/aggregator/ledger"
	"usaged/aggregator/retention"
	"usaged/aggregator/seqset"
	"usaged/aggregator/store"
)

// counting is what it takes to bring events from the journal to the store. The applier, the workers of its partitions and the
// rebuilder each have it, and through it none of the others. Its fields do not change once the aggregator is open; what they point
// to is safe for concurrent use, but for identity, see applier.mu.
type counting struct {
	log         *slog.Logger
	metrics     *aggregatorMetrics
	store       store.Store
	journal     *journal.Journal
	source      source // reads the journal for the store
	accounts    *ledger.Ledger
	history     *history
	restores    *restores
	labels      *labels
	identity    *identity
	checkpoints *checkpoints
	verdicts    *ids.Verdicts
	scope       ids.Scope
	keep        keeping
	now         func() time.Time
}

// records calls f for the records after an event, until it returns false or the journal ends. It is safe for concurrent use.
func (c *counting) records(after uint64, f func(*journal.Record) bool) error {
	end, err := c.source.records(after, func(rec *journal.Record) bool {
		c.noteGap(rec)
		return f(rec)
	})
	if err != nil {
		return err
	}
	if end.reached {
		c.endDamaged(end.last, end.durable)
	}
	return nil
}

// endDamaged accounts for events that are damaged at the very end, where no record after them tells. position is the last
// event read, end the last one that was durable when the reader came to its end. It returns the later of the two.
func (c *counting) endDamaged(position, end uint64) uint64 {
	if position < end {
		c.accounts.Gap(seqset.Run{First: position + 1, Last: end})
	}
	return max(position, end)
}

// noteGap accounts for events that are damaged.
func (c *counting) noteGap(rec *journal.Record) {
	if rec.Gap > 0 {
		c.accounts.Gap(seqset.Run{First: rec.First - rec.Gap, Last: rec.First - 1})
	}
}

// journalVerdicts makes durable what a batch builds on: the labels that it uses, and which events are duplicates. A rebuild then
// gives the same answer. It is safe for concurrent use.
func (c *counting) journalVerdicts(duplicates []uint64) error {
	if err := c.labels.save(); err != nil {
		return err
	}
	if len(duplicates) == 0 {
		return nil
	}
	if err := c.journal.Note(ids.EncodeVerdict(duplicates)); err != nil {
		return fmt.Errorf("journal verdicts: %w", err)
	}
	c.verdicts.Add(duplicates...)
	return nil
}

// keeping says for how many days rollups and events are kept.
type keeping struct {
	// days is how many UTC days, today included, can be asked for. policy, which may be nil, says how many are kept beyond that.
	days          int
	policy        *retention.Policy
	now, deletion func() time.Time
}

// oldest returns the oldest UTC day that can be asked for.
func (k *keeping) oldest() event.Day { return event.DayOf(k.now()) - event.Day(k.days) + 1 }

// keptDays returns for how many UTC days, today included, rollups are kept.
func (k *keeping) keptDays() int {
	if k.policy == nil {
		return k.days
	}
	return max(k.days, k.policy.Kept())
}

// writtenDays returns for how many UTC days, today included, rollups are written: as many as are kept, as far as that is known.
func (k *keeping) writtenDays() int {
	if k.policy == nil {
		return k.days
	}
	return max(k.days, k.policy.Written())
}

// oldestWritten returns the oldest UTC day that events are added to. That is as far back as a store that is told what to delete has any
// days, and further than can be asked for: who asks for more days later has the events that were applied meanwhile. A store whose
// days expire by themselves forgets at once what is added to a day that has.
func (k *keeping) oldestWritten() event.Day {
	return event.DayOf(k.now()) - event.Day(k.writtenDays()+graceDays) + 1
}

// oldestStored returns the oldest UTC day whose rollups are not deleted where so many days are kept.
func (k *keeping) oldestStored(days int) event.Day {
	return event.DayOf(k.deletion()) - event.Day(days+graceDays) + 1
}

// journalDeadline returns the time before which segments of the journal are deleted where so many days are kept.
func (k *keeping) journalDeadline(days int) time.Time {
	return k.deletion().AddDate(0, 0, -(days + graceDays))
}
