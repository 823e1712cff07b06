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
	"usaged/aggregator/store"
)

// Ledger is the accounts of one data directory since its beginning. In each account
//
//	accepted = counted + duplicates + pending + damaged
//
// and the sides are kept apart: accepted by the journal, pending by what the journal has and the applier hasn't seen,
// counted and duplicates by the totals in the store. Damaged are the events that can't be read any more and had not been
// counted before. Where another data directory has counted under an id of this one, since one is a copy of the other,
// those events are taken as accepted.
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
type accounts struct {
	mu       sync.Mutex
	changed  sync.Cond // known or recounting changed
	end      uint64    // the last event that accepted and pending include
	accepted counts
	newest   times
	pending  counts
	// gaps are the events that cannot be read any more. damaged is how many of them had not been counted before. surplus is
	// how many events were counted under our ids by another data directory.
	gaps             seqSet
	damaged, surplus uint64
	// known says that the store's totals have been read. recounting says that pending is being counted anew.
	known, recounting bool
	since, before     uint64                    // events committed since recounting began, and events pending before it did
	totals            map[totalsOf]meter.Totals // copies
	sum               meter.Totals              // of totals
}

// totalsOf names the totals of one producer in one partition.
type totalsOf struct {
	producer  string
	partition int
}

func newAccounts() *accounts {
	a := &accounts{accepted: counts{}, newest: times{}, pending: counts{}, totals: map[totalsOf]meter.Totals{}, sum: meter.Totals{}}
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
	if a.recounting {
		a.since += uint64(n)
	}
	for _, t := range types {
		a.accepted.add(t.Type, uint64(t.N))
		a.newest.set(a.admitted(t.Type), acceptedMillis)
		a.pending[a.admitted(t.Type)] += uint64(t.N)
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

// apply moves events from pending to the totals of a producer. moved has the events per type, totals their new values.
func (a *accounts) apply(of totalsOf, moved counts, changed meter.Totals) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for t, n := range moved {
		a.pending[a.admitted(t)] -= n
	}
	if a.totals[of] == nil {
		a.totals[of] = meter.Totals{}
	}
	for s, n := range changed {
		a.sum[s] += n - a.totals[of][s]
		a.totals[of][s] = n
	}
}

// setTotals replaces the totals of a producer by what the store holds.
func (a *accounts) setTotals(of totalsOf, totals meter.Totals) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s, n := range a.totals[of] {
		if a.sum[s] -= n; a.sum[s] == 0 {
			delete(a.sum, s)
		}
	}
	a.totals[of] = maps.Clone(totals)
	for s, n := range totals {
		a.sum[s] += n
	}
}

// recount begins to count pending anew and returns the last event that the caller has to count; later ones are counted
// as they are committed.
func (a *accounts) recount() (through uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.recounting {
		a.before = sumOf(a.pending)
	}
	a.recounting = true
	a.pending, a.since = counts{}, 0
	return a.end
}

// recounted ends what recount began. Events in the gaps are damaged, unless they had been counted before they were. shared
// says that another data directory has counted under one of our ids, so that the totals hold more than our journal.
func (a *accounts) recounted(pending counts, shared bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := uint64(0)
	for t, n := range pending {
		a.pending[a.admitted(t)] += n
		sum += n
	}
	settled := a.settled()
	for t, n := range settled {
		sum += n
		// What can't be read any more wasn't found in the journal; nor what another directory has counted.
		if gone := n + pending[t]; (len(a.gaps.runs) > 0 || shared) && a.accepted[t] < gone {
			a.accepted[t] = gone
		}
	}
	a.damaged, a.surplus = 0, 0
	if through := a.end - a.since; sum < through {
		a.damaged = min(through-sum, a.gaps.len(a.end))
	} else if shared {
		a.surplus = sum - through
	}
	a.since, a.recounting, a.known = 0, false, true
	a.changed.Broadcast()
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

// gap notes events that cannot be read any more, and says whether that is news.
func (a *accounts) gap(r run) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.gaps.len(r.Last)
	a.gaps.addRun(r)
	return a.gaps.len(r.Last) != before
}

// counted returns this data directory's lifetime totals over producers and partitions, or false while they are not
// known yet.
func (a *accounts) counted() (meter.Totals, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.sum), a.known
}

// ledger takes a consistent view. It waits while pending is being counted, and until the store's totals are known.
func (a *accounts) ledger(ctx context.Context) (*Ledger, error) {
	stop := context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.changed.Broadcast()
	})
	defer stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.known || a.recounting {
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

// pendingEvents returns the number of events that are pending. While they are being counted anew it is that of before.
func (a *accounts) pendingEvents() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.recounting {
		return a.before + a.since
	}
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
