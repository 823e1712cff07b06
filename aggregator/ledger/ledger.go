// Package ledger keeps the books of one data directory: what became of every event that it has accepted, and its lifetime totals.
//
// A [Ledger] is told what happens: Commit, when the journal has made a batch durable, Apply, when a store has taken events of a
// partition, Gap, when events turn out to be damaged. It promises that each of these changes is whole, so that at any
// time, for all events together,
//
//	accepted = counted + duplicates + pending + damaged
//
// where the sides come from different hands: accepted from the journal, counted and duplicates from the totals in the store. Where
// they differ, Imbalance says so. It asks nobody for anything, does no I/O, and keeps nothing on disk: after a start Restore gives it
// what was accepted, and a [Recount] what is pending and what the store holds.
//
// A Ledger is safe for concurrent use. [Counts] and [Times] belong to one goroutine.
//
//	books := ledger.New(1)
//	books.Restore(ledger.Counts{}, ledger.Times{}, 0)
//	books.BeginRecount(nil)
//	books.FinishRecount(waiting, nil, nil, spans) // the store is empty
//	books.Commit(1, []event.TypeCount{{Type: "chat", N: 2}}, 2, now.UnixMilli())
//	report, err := books.Report(ctx) // 2 accepted, 2 pending
package ledger

import (
	"maps"
	"slices"
	"sync"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
)

// Ledger keeps what a [Report] says. It is safe for concurrent use.
//
// Each change is whole: an event goes from pending to the totals, and the position of its partition moves over it, in one step. Where
// pending must be counted anew, the count is made aside and adopted in one step too, so that the accounts balance at any time, also
// while the journal cannot be read.
type Ledger struct {
	mu       sync.Mutex
	changed  sync.Cond // known changed
	end      uint64    // the last event that accepted and pending include
	accepted Counts
	newest   Times
	pending  Counts
	// gaps are the events that cannot be read any more. damaged is how many of them had not been counted before. surplus is
	// how many events another data directory has counted under the ids that this one has left.
	gaps             seqset.Set
	damaged, surplus uint64
	// known says that the store's totals have been adopted.
	known bool
	// positions says of each partition up to which event it is counted.
	positions []uint64
	totals    map[Of]meter.Totals // copies
	sum       meter.Totals        // of totals

	// due says that pending must be counted anew. recount is what has happened since a count of it began, nil where none is
	// under way.
	due     bool
	recount *Recount
	// impossible says that more events were to be taken from pending than there were.
	impossible bool
}

// Of names the totals of one producer in one partition.
type Of struct {
	Producer  string
	Partition int
}

// New returns the ledger of a data directory with no event, whose store has so many partitions.
func New(partitions int) *Ledger {
	l := &Ledger{
		accepted: Counts{}, newest: Times{}, pending: Counts{}, positions: make([]uint64, partitions),
		totals: map[Of]meter.Totals{}, sum: meter.Totals{},
	}
	l.changed.L = &l.mu
	return l
}

// Restore sets what was accepted before the journal was opened.
func (l *Ledger) Restore(accepted Counts, newest Times, end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accepted, l.newest, l.end = accepted, newest, end
}

// Commit adds a batch that the journal has made durable. It is called in the order of the journal.
func (l *Ledger) Commit(first uint64, types []event.TypeCount, n int, acceptedMillis int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = first + uint64(n) - 1
	for _, t := range types {
		l.accepted.Add(t.Type, uint64(t.N))
		name := l.admitted(t.Type)
		l.newest.Set(name, acceptedMillis)
		l.pending[name] += uint64(t.N)
		if l.recount != nil {
			l.recount.committed[name] += uint64(t.N)
		}
	}
}

// Name returns the name under which an accepted type is counted.
func (l *Ledger) Name(eventType string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.admitted(eventType)
}

// admitted returns the name under which a type was accepted. l.mu is held.
func (l *Ledger) admitted(eventType string) string {
	if _, known := l.accepted[eventType]; known {
		return eventType
	}
	return event.Other
}

// Apply moves events of a partition, up to last, from pending to the totals of a producer. moved has the events per type, changed
// the new values of the totals.
func (l *Ledger) Apply(of Of, moved Counts, changed meter.Totals, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t, n := range moved {
		name := l.admitted(t)
		l.pending.subtract(name, n, &l.impossible)
		if l.recount != nil {
			l.recount.moved[name] += n
			l.recount.movedOf[of.Producer] += n
		}
	}
	if l.totals[of] == nil {
		l.totals[of] = meter.Totals{}
	}
	for s, n := range changed {
		l.sum[s] += n - l.totals[of][s] // the sum has the old value in it
		l.totals[of][s] = n
	}
	l.positions[of.Partition] = max(l.positions[of.Partition], last)
}

// Advance notes that a partition has no event up to last that is not counted.
func (l *Ledger) Advance(partition int, last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.positions[partition] = max(l.positions[partition], last)
}

// Position returns the event up to which a partition is counted.
func (l *Ledger) Position(partition int) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.positions[partition]
}

// CountedThrough returns the event up to which all partitions are counted.
func (l *Ledger) CountedThrough() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Min(l.positions)
}

// setTotals replaces the totals of a producer by what the store holds. l.mu is held.
func (l *Ledger) setTotals(of Of, totals meter.Totals) {
	for s, n := range l.totals[of] {
		if l.sum[s] -= n; l.sum[s] == 0 { // the sum has it in it
			delete(l.sum, s)
		}
	}
	l.totals[of] = maps.Clone(totals)
	for s, n := range totals {
		l.sum[s] += n
	}
}

// Imbalance returns what is accepted and what is accounted for, and whether the two differ, or something impossible has
// happened. It is false while the store's totals are not known.
func (l *Ledger) Imbalance() (accepted, accounted uint64, wrong bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	accepted, accounted = l.end+l.surplus, l.pending.sum()+l.damaged
	applied := AccountOf(l.sum)
	accounted += applied.Counted + applied.Duplicates
	return accepted, accounted, l.known && (l.impossible || accepted != accounted)
}

// Gap notes events that cannot be read any more. Where that is news, what is pending cannot all be applied, and is to be counted
// anew.
func (l *Ledger) Gap(r seqset.Run) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.gaps.Count(r.Last)
	l.gaps.AddRun(r)
	l.due = l.due || l.gaps.Count(r.Last) != before
}

// Totals returns this data directory's lifetime totals over producers and partitions, or false while they are not
// known yet.
func (l *Ledger) Totals() (meter.Totals, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.sum), l.known
}

// Newest returns when the last event of each type was accepted.
func (l *Ledger) Newest() Times {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.newest)
}

// Pending returns the number of events that are pending.
func (l *Ledger) Pending() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending.sum()
}

// Known says that the totals of the store have been adopted.
func (l *Ledger) Known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known
}

// Late returns how many events were counted that had been created [meter.LateAfter] or more before they were accepted, and false
// while that is not known.
func (l *Ledger) Late() (n uint64, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, events := range l.sum {
		if s.Family == meter.FamilyLate {
			n += events
		}
	}
	return n, l.known
}

// Snapshot is what the ledger holds when all partitions are counted up to one event.
type Snapshot struct {
	Newest  Times
	Damaged []seqset.Run // up to that event
	Totals  map[Of]meter.Totals
}

// At returns a copy of what the ledger holds, and false unless all partitions are counted up to seq and no further.
func (l *Ledger) At(seq uint64) (s Snapshot, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.ContainsFunc(l.positions, func(position uint64) bool { return position != seq }) {
		return s, false
	}
	s = Snapshot{Newest: maps.Clone(l.newest), Totals: make(map[Of]meter.Totals, len(l.totals))}
	for _, r := range l.gaps.Runs() {
		if r.Last <= seq {
			s.Damaged = append(s.Damaged, r)
		}
	}
	for of, totals := range l.totals {
		s.Totals[of] = maps.Clone(totals)
	}
	return s, true
}
