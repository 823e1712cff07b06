package aggregator

import (
	"maps"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/ids"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
	"usaged/aggregator/store"
)

// fold adds up events of one partition that are counted by the meters of one epoch. It is used again from one batch to the next,
// so a batch that was made of it is valid only until the next reset.
type fold struct {
	epoch *epoch
	// after is where the partition stands: events up to it are in the store already.
	after uint64
	// checkpointed is the last event of the newest checkpoint. Events up to it were counted before, when their ids could be
	// checked.
	checkpointed uint64
	now          time.Time
	folder       *meter.Folder
	verdicts     *ids.Verdicts

	claims     []store.Claim
	claimants  []uint64           // the events that make the claims
	checks     []store.Claim      // other ids that must not be taken, see ids.Scope
	checkers   []uint64           // the events that make the checks
	acceptance map[[16]byte]int64 // of the ids of this fold
	scope      ids.Scope
	duplicates []uint64 // found within this fold, without a verdict in the journal
	unverified uint64   // events whose ids were too old to be checked
}

// reset empties the fold for events after the position of the partition.
func (f *fold) reset(e *epoch, c *counting, after uint64) {
	if f.epoch != e {
		f.epoch, f.folder = e, meter.NewFolder(e.Meters, c.labels.Labels)
	}
	if f.acceptance == nil {
		f.acceptance = map[[16]byte]int64{}
	}
	f.after, f.checkpointed, f.verdicts = after, c.checkpoints.newestSeq(), c.verdicts
	f.folder.Reset(c.keep.oldestWritten())
	if days, _ := c.restores.excluded(after+1, 0); len(days) > 0 {
		f.folder.Skip(days)
	}
	f.now, f.unverified = c.now(), 0
	f.scope = c.scope
	f.checks, f.checkers = f.checks[:0], f.checkers[:0]
	f.claims, f.claimants, f.duplicates = f.claims[:0], f.claimants[:0], f.duplicates[:0]
	clear(f.acceptance)
}

// add folds one event.
func (f *fold) add(seq uint64, v *event.View, user string) {
	if len(v.ID) > 0 && f.duplicate(seq, v) {
		f.folder.Duplicate(v)
		return
	}
	f.folder.Add(v, user)
}

// duplicate judges an event with a client's id as far as that is possible without the store, and claims the id.
func (f *fold) duplicate(seq uint64, v *event.View) bool {
	if f.verdicts.Has(seq) {
		return true
	}
	digests := f.scope.Of(v)
	if digests.Near(f.acceptance, v.AcceptedMillis) {
		f.duplicates = append(f.duplicates, seq)
		return true
	}
	f.acceptance[digests.Claim] = v.AcceptedMillis
	if f.now.UnixMilli()-v.AcceptedMillis > ids.VerifiableFor.Milliseconds() {
		if seq > f.checkpointed {
			f.unverified++
		}
		return false
	}
	f.claims = append(f.claims, store.Claim{Digest: digests.Claim, AcceptedMillis: v.AcceptedMillis})
	f.claimants = append(f.claimants, seq)
	for _, other := range digests.Others() {
		f.checks = append(f.checks, store.Claim{Digest: other, AcceptedMillis: v.AcceptedMillis})
		f.checkers = append(f.checkers, seq)
	}
	return false
}

// claimCost is how many cells a claim counts for: ids arrive in random order, so each one takes the store a page of its own.
const claimCost = 2

// cells is what the fold costs the store.
func (f *fold) cells() int { return f.folder.Cells() + claimCost*(len(f.claims)+len(f.checks)) }

// empty says that nothing was folded.
func (f *fold) empty() bool {
	stats := f.folder.Stats()
	return stats.Events+stats.Duplicates == 0
}

// batch is a fold on its way to the store. It does not change while it is tried again, so that an attempt whose answer was lost
// and the next one are the same.
type batch struct {
	store.Batch
	claimants  []uint64          // the events that make the claims
	checkers   []uint64          // the events that make the checks
	duplicates []uint64          // must have a verdict in the journal before the batch is sent
	moved      ledger.Counts     // events per type that it takes from pending, duplicates included
	stats      meter.Stats       // of the fold
	overflow   map[string]uint64 // see meter.Delta.Overflow
	unverified uint64
}

// newBatch ends a fold. of says where the batch belongs; its days, totals and claims are the fold's. totals are those that the
// store holds.
func newBatch(of store.Batch, f *fold, totals meter.Totals, admitted func(string) string) *batch {
	delta := f.folder.Delta()
	b := &batch{
		Batch: of, claimants: f.claimants, checkers: f.checkers, duplicates: f.duplicates, moved: ledger.Counts{},
		stats: f.folder.Stats(), overflow: delta.Overflow, unverified: f.unverified,
	}
	b.moved.AddApplied(delta.Totals)
	b.Days, b.Totals = delta.Days, ledger.AddTotals(maps.Clone(totals), delta.Totals, admitted)
	b.Claims, b.Checks = f.claims, f.checks
	return b
}

// events returns the events that make claims or checks, each of them once. The checks are numbered after the claims.
func (b *batch) events(taken []int) []uint64 {
	var set seqset.Set
	for _, i := range taken {
		if i < len(b.claimants) {
			set.Add(b.claimants[i])
		} else {
			set.Add(b.checkers[i-len(b.claimants)])
		}
	}
	return set.All()
}
