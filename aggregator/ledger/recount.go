package ledger

import (
	"slices"

	"usaged/aggregator/meter"
)

// Recount is a count of pending in the making: what to count, and what has changed meanwhile.
type Recount struct {
	Through   uint64   // the last event to be counted
	Positions []uint64 // after which the events of each partition are pending
	committed Counts   // events that came in since
	moved     Counts   // events that were taken from pending since
	movedOf   map[string]uint64
}

// Waiting are the events of the journal that are pending, by type and by the id of the producer that they count under.
type Waiting struct {
	Types     Counts
	Producers map[string]uint64
}

// Span are producers in a row of which it is known how many events they have between them: normally one.
type Span struct {
	Producers []string
	// Before is how many events of the journal count under the producers before these. Theirs lie after event After and end with
	// Through, in some partition.
	Before, After, Through uint64
}

func (s *Span) last() string { return s.Producers[len(s.Producers)-1] }

// RecountDue says that pending must be counted anew.
func (l *Ledger) RecountDue() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.due
}

// BeginRecount begins to count pending anew, where the positions of some partitions are to be others. Until FinishRecount
// everything stays as it is; AbandonRecount ends it without a change.
func (l *Ledger) BeginRecount(moved map[int]uint64) *Recount {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recount = &Recount{Through: l.end, Positions: slices.Clone(l.positions), committed: Counts{}, moved: Counts{}, movedOf: map[string]uint64{}}
	for partition, position := range moved {
		l.recount.Positions[partition] = position
	}
	l.due = false
	return l.recount
}

// AbandonRecount leaves everything as it was, and says that the recount is still due.
func (l *Ledger) AbandonRecount() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recount, l.due = nil, true
}

// FinishRecount adopts what was counted, with the totals and positions of the partitions that the store was asked for. Events in
// the gaps are damaged, unless they had been counted before they were. spans say how many events there are of each producer.
func (l *Ledger) FinishRecount(found Waiting, totals map[Of]meter.Totals, moved map[int]uint64, spans []Span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.recount
	l.recount, l.impossible = nil, false
	for of, t := range totals {
		l.setTotals(of, t)
	}
	for partition, position := range moved {
		l.positions[partition] = position
	}
	found.Producers[spans[len(spans)-1].last()] += r.committed.sum()
	l.pending = r.committed
	for t, n := range found.Types {
		l.pending[l.admitted(t)] += n
	}
	for t, n := range r.moved {
		l.pending.subtract(t, n, &l.impossible)
	}
	for id, n := range r.movedOf {
		found.Producers[id] -= min(n, found.Producers[id])
	}
	l.weigh(spans, found.Producers)
	l.known = true
	l.changed.Broadcast()
}

// weigh finds out how many events are damaged, and how many another data directory has counted under the ids that this one has
// left. Each span is weighed by itself: what another directory has counted in one must not hide what is lost in another.
// l.mu is held.
func (l *Ledger) weigh(spans []Span, pending map[string]uint64) {
	counted := map[string]uint64{}
	for of, totals := range l.totals {
		applied := AccountOf(totals)
		counted[of.Producer] += applied.Counted + applied.Duplicates
	}
	l.damaged, l.surplus = 0, 0
	for k, sp := range spans {
		end := l.end
		if k+1 < len(spans) {
			end = spans[k+1].Before
		}
		events, known := end-min(sp.Before, end), uint64(0)
		for _, id := range sp.Producers {
			known += counted[id] + pending[id]
		}
		switch {
		case known < events:
			l.damaged += min(events-known, l.gaps.Between(sp.After, min(sp.Through, l.end)))
		case k+1 < len(spans) || len(sp.Producers) > 1:
			l.surplus += known - events
		}
	}
	applied := Counts{}
	applied.AddApplied(l.sum)
	for t, n := range applied {
		// What can't be read any more wasn't found in the journal; nor what another directory has counted.
		if gone := n + l.pending[t]; (!l.gaps.Empty() || l.surplus > 0) && l.accepted[t] < gone {
			l.accepted[t] = gone
		}
	}
}
