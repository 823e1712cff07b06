package aggregator

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/seqset"
	"usaged/aggregator/store"
)

// Ledger is the accounts of one data directory since its beginning. In each account
//
//	accepted = counted + duplicates + pending + damaged
//
// and the sides are kept apart: accepted by the journal, pending by what the journal has and the applier hasn't seen,
// counted and duplicates by the totals in the store. Damaged are the events that can't be read any more and had not been
// counted before. Where a data directory was copied or restored, another one may have gone on under the id that this one
// counted under until then: what it has counted beyond the events of this journal is taken as accepted. Under the id that new
// events count under nothing is, so that events that are lost, or counted twice, leave the ledger unbalanced.
type Ledger struct {
	// Producers are the ids under which this data directory has counted.
	Producers []string
	All       Account
	// Types has an account per event type. The types of damaged events are unknown: only All counts them.
	Types map[string]Account
	// Others are the other producers that the store knows. OthersStale says that it could not be asked, and that they are those
	// of the last answer, none where there was none.
	Others      []OtherProducer
	OthersStale bool
}

// Account is a number of events by what became of them.
type Account struct {
	Accepted, Counted, Duplicates, Pending, Damaged uint64
}

// OtherProducer is what another data directory has contributed.
type OtherProducer struct {
	ID                  string
	Counted, Duplicates uint64
}

// accounts keeps what Ledger reports. It is safe for concurrent use.
//
// Each change is whole: an event goes from pending to the totals, and the position of its partition moves over it, in one step. Where
// pending must be counted anew, the count is made aside and adopted in one step too, so that the accounts balance at any time, also
// while the journal cannot be read.
type accounts struct {
	mu       sync.Mutex
	changed  sync.Cond // known changed
	end      uint64    // the last event that accepted and pending include
	accepted counts
	newest   times
	pending  counts
	// gaps are the events that cannot be read any more. damaged is how many of them had not been counted before. surplus is
	// how many events another data directory has counted under the ids that this one has left.
	gaps             seqset.Set
	damaged, surplus uint64
	// known says that the store's totals have been adopted.
	known bool
	// positions says of each partition up to which event it is counted.
	positions []uint64
	totals    map[totalsOf]meter.Totals // copies
	sum       meter.Totals              // of totals

	// due says that pending must be counted anew. recount is what has happened since a count of it began, nil where none is
	// under way.
	due     bool
	recount *recount
	// impossible says that more events were to be taken from pending than there were.
	impossible bool
}

// recount is a count of pending in the making: what to count, and what has changed meanwhile.
type recount struct {
	through   uint64   // the last event to be counted
	positions []uint64 // after which the events of each partition are pending
	committed counts   // events that came in since
	moved     counts   // events that were taken from pending since
	movedOf   map[string]uint64
}

// waiting are the events of the journal that are pending, by type and by the id of the producer that they count under.
type waiting struct {
	types     counts
	producers map[string]uint64
}

// totalsOf names the totals of one producer in one partition.
type totalsOf struct {
	producer  string
	partition int
}

func newAccounts(partitions int) *accounts {
	a := &accounts{
		accepted: counts{}, newest: times{}, pending: counts{}, positions: make([]uint64, partitions),
		totals: map[totalsOf]meter.Totals{}, sum: meter.Totals{},
	}
	a.changed.L = &a.mu
	return a
}

// restore sets what was accepted before the journal was opened.
func (a *accounts) restore(accepted counts, newest times, end uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.accepted, a.newest, a.end = accepted, newest, end
}

// commit adds a batch that the journal has made durable. It is called in the order of the journal.
func (a *accounts) commit(first uint64, types []event.TypeCount, n int, acceptedMillis int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.end = first + uint64(n) - 1
	for _, t := range types {
		a.accepted.add(t.Type, uint64(t.N))
		name := a.admitted(t.Type)
		a.newest.set(name, acceptedMillis)
		a.pending[name] += uint64(t.N)
		if a.recount != nil {
			a.recount.committed[name] += uint64(t.N)
		}
	}
}

// name returns the name under which an accepted type is counted.
func (a *accounts) name(eventType string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.admitted(eventType)
}

// admitted returns the name under which a type was accepted. a.mu is held.
func (a *accounts) admitted(eventType string) string {
	if _, known := a.accepted[eventType]; known {
		return eventType
	}
	return event.Other
}

// apply moves events of a partition, up to last, from pending to the totals of a producer. moved has the events per type, changed
// the new values of the totals.
func (a *accounts) apply(of totalsOf, moved counts, changed meter.Totals, last uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for t, n := range moved {
		name := a.admitted(t)
		a.pending.subtract(name, n, &a.impossible)
		if a.recount != nil {
			a.recount.moved[name] += n
			a.recount.movedOf[of.producer] += n
		}
	}
	if a.totals[of] == nil {
		a.totals[of] = meter.Totals{}
	}
	for s, n := range changed {
		a.sum[s] += n - a.totals[of][s] // the sum has the old value in it
		a.totals[of][s] = n
	}
	a.positions[of.partition] = max(a.positions[of.partition], last)
}

// advance notes that a partition has no event up to last that is not counted.
func (a *accounts) advance(partition int, last uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.positions[partition] = max(a.positions[partition], last)
}

// position returns the event up to which a partition is counted.
func (a *accounts) position(partition int) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.positions[partition]
}

// countedThrough returns the event up to which all partitions are counted.
func (a *accounts) countedThrough() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Min(a.positions)
}

// setTotals replaces the totals of a producer by what the store holds. a.mu is held.
func (a *accounts) setTotals(of totalsOf, totals meter.Totals) {
	for s, n := range a.totals[of] {
		if a.sum[s] -= n; a.sum[s] == 0 { // the sum has it in it
			delete(a.sum, s)
		}
	}
	a.totals[of] = maps.Clone(totals)
	for s, n := range totals {
		a.sum[s] += n
	}
}

// beginRecount begins to count pending anew, where the positions of some partitions are to be others. Until finishRecount
// everything stays as it is; abandonRecount ends it without a change.
func (a *accounts) beginRecount(moved map[int]uint64) *recount {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recount = &recount{through: a.end, positions: slices.Clone(a.positions), committed: counts{}, moved: counts{}, movedOf: map[string]uint64{}}
	for partition, position := range moved {
		a.recount.positions[partition] = position
	}
	a.due = false
	return a.recount
}

// abandonRecount leaves everything as it was, and says that the recount is still due.
func (a *accounts) abandonRecount() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recount, a.due = nil, true
}

// finishRecount adopts what was counted, with the totals and positions of the partitions that the store was asked for. Events in
// the gaps are damaged, unless they had been counted before they were. spans say how many events there are of each producer.
func (a *accounts) finishRecount(found waiting, totals map[totalsOf]meter.Totals, moved map[int]uint64, spans []span) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.recount
	a.recount, a.impossible = nil, false
	for of, t := range totals {
		a.setTotals(of, t)
	}
	for partition, position := range moved {
		a.positions[partition] = position
	}
	found.producers[spans[len(spans)-1].last()] += sumOf(r.committed)
	a.pending = r.committed
	for t, n := range found.types {
		a.pending[a.admitted(t)] += n
	}
	for t, n := range r.moved {
		a.pending.subtract(t, n, &a.impossible)
	}
	for id, n := range r.movedOf {
		found.producers[id] -= min(n, found.producers[id])
	}
	a.weigh(spans, found.producers)
	a.known = true
	a.changed.Broadcast()
}

// weigh finds out how many events are damaged, and how many another data directory has counted under the ids that this one has
// left. Each span is weighed by itself: what another directory has counted in one must not hide what is lost in another.
// a.mu is held.
func (a *accounts) weigh(spans []span, pending map[string]uint64) {
	counted := map[string]uint64{}
	for of, totals := range a.totals {
		for s, n := range totals {
			if s.Family == meter.FamilyEvents || s.Family == meter.FamilyDuplicates {
				counted[of.producer] += n
			}
		}
	}
	a.damaged, a.surplus = 0, 0
	for k, sp := range spans {
		end := a.end
		if k+1 < len(spans) {
			end = spans[k+1].before
		}
		events, known := end-min(sp.before, end), uint64(0)
		for _, id := range sp.producers {
			known += counted[id] + pending[id]
		}
		switch {
		case known < events:
			a.damaged += min(events-known, a.gaps.Between(sp.after, min(sp.through, a.end)))
		case k+1 < len(spans) || len(sp.producers) > 1:
			a.surplus += known - events
		}
	}
	for t, n := range a.settled() {
		// What can't be read any more wasn't found in the journal; nor what another directory has counted.
		if gone := n + a.pending[t]; (!a.gaps.Empty() || a.surplus > 0) && a.accepted[t] < gone {
			a.accepted[t] = gone
		}
	}
}

// imbalance returns what is accepted and what is accounted for, and whether the two differ, or something impossible has
// happened. It is false while the store's totals are not known.
func (a *accounts) imbalance() (accepted, accounted uint64, wrong bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	accepted, accounted = a.end+a.surplus, sumOf(a.pending)+a.damaged
	for s, n := range a.sum {
		if s.Family == meter.FamilyEvents || s.Family == meter.FamilyDuplicates {
			accounted += n
		}
	}
	return accepted, accounted, a.known && (a.impossible || accepted != accounted)
}

// recountDue says that pending must be counted anew.
func (a *accounts) recountDue() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.due
}

// settled returns the events per type that are counted or duplicates. a.mu is held.
func (a *accounts) settled() counts {
	sums := counts{}
	for _, totals := range a.totals {
		for s, n := range totals {
			if s.Family == meter.FamilyEvents || s.Family == meter.FamilyDuplicates {
				sums[s.A] += n
			}
		}
	}
	return sums
}

// gap notes events that cannot be read any more. Where that is news, what is pending cannot all be applied, and is to be counted
// anew.
func (a *accounts) gap(r seqset.Run) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.gaps.Count(r.Last)
	a.gaps.AddRun(r)
	a.due = a.due || a.gaps.Count(r.Last) != before
}

// counted returns this data directory's lifetime totals over producers and partitions, or false while they are not
// known yet.
func (a *accounts) counted() (meter.Totals, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.sum), a.known
}

// ledger takes a consistent view. It waits until the store's totals are known.
func (a *accounts) ledger(ctx context.Context) (*Ledger, error) {
	stop := context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.changed.Broadcast()
	})
	defer stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.known {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		a.changed.Wait()
	}
	l := &Ledger{Types: map[string]Account{}}
	l.All.Accepted, l.All.Damaged = a.end+a.surplus, a.damaged
	edit := func(eventType string, f func(*Account)) {
		t := l.Types[eventType]
		f(&t)
		f(&l.All)
		l.Types[eventType] = t
	}
	for t, n := range a.accepted {
		acc := l.Types[t]
		acc.Accepted = n
		l.Types[t] = acc
	}
	for t, n := range a.pending {
		if n > 0 {
			edit(t, func(acc *Account) { acc.Pending += n })
		}
	}
	for _, totals := range a.totals {
		for s, n := range totals {
			switch s.Family {
			case meter.FamilyEvents:
				edit(s.A, func(acc *Account) { acc.Counted += n })
			case meter.FamilyDuplicates:
				edit(s.A, func(acc *Account) { acc.Duplicates += n })
			}
		}
	}
	return l, nil
}

// othersTimeout bounds the wait for what the store knows of other producers.
const othersTimeout = 2 * time.Second

// Ledger returns the accounts of this data directory and what the store knows of others. It waits until the store has
// been reached for the first time, or ctx ends; later the store may be away.
func (a *Aggregator) Ledger(ctx context.Context) (*Ledger, error) {
	l, err := a.accounts.ledger(ctx)
	if err != nil {
		return nil, err
	}
	l.Producers = a.producers()
	ctx, cancel := context.WithTimeout(ctx, othersTimeout)
	defer cancel()
	all, err := a.cfg.Store.Producers(ctx)
	a.othersMu.Lock()
	defer a.othersMu.Unlock()
	if err == nil {
		a.others = othersOf(all, l.Producers)
	}
	l.Others, l.OthersStale = a.others, err != nil
	return l, nil
}

// othersOf returns what producers have contributed that are not among own.
func othersOf(all []store.Producer, own []string) (others []OtherProducer) {
	for _, p := range all {
		if _, _, rebuild := RebuildOf(p.ID); rebuild || slices.Contains(own, p.ID) {
			continue
		}
		other := OtherProducer{ID: p.ID}
		for s, n := range p.Totals {
			switch s.Family {
			case meter.FamilyEvents:
				other.Counted += n
			case meter.FamilyDuplicates:
				other.Duplicates += n
			}
		}
		others = append(others, other)
	}
	return others
}

// Totals returns this data directory's lifetime totals, and false while they are not known: until the store has been
// reached for the first time. Event types beyond the limit of the label are under event.Other.
func (a *Aggregator) Totals() (meter.Totals, bool) {
	totals, known := a.accounts.counted()
	for s, n := range totals {
		label, _ := a.labels.EventType(s.A)
		if meter.TypeFamily(s.Family) && label != s.A {
			delete(totals, s)
			s.A = label
			totals[s] += n
		}
	}
	return totals, known
}

// Newest returns when the last event of each type was accepted here. Event types beyond the limit of the label are under
// event.Other.
func (a *Aggregator) Newest() map[string]time.Time {
	newest := times{}
	for t, millis := range a.accounts.newestEvents() {
		if label, ok := a.labels.EventType(t); ok { // otherwise it is about to be counted
			newest[label] = max(newest[label], millis)
		}
	}
	list := map[string]time.Time{}
	for t, millis := range newest {
		list[t] = time.UnixMilli(millis)
	}
	return list
}

// committed is the journal's callback.
func (a *Aggregator) committed(first uint64, b journal.Batch) {
	batch := b.Tag.(*event.Batch)
	a.accounts.commit(first, batch.Types, batch.N, batch.AcceptedAt.UnixMilli())
}

// newestEvents returns when the last event of each type was accepted.
func (a *accounts) newestEvents() times {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.newest)
}

// pendingEvents returns the number of events that are pending.
func (a *accounts) pendingEvents() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return sumOf(a.pending)
}

func sumOf(c counts) (sum uint64) {
	for _, n := range c {
		sum += n
	}
	return sum
}

func (a *accounts) isKnown() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known
}
