package aggregator

import (
	"context"
	"slices"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// othersTimeout bounds the wait for what the store knows of other producers.
const othersTimeout = 2 * time.Second

// Ledger returns the accounts of this data directory and what the store knows of others. It waits until the store has
// been reached for the first time, or ctx ends; later the store may be away.
func (a *Aggregator) Ledger(ctx context.Context) (*ledger.Report, error) {
	l, err := a.accounts.Report(ctx)
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
func othersOf(all []store.Producer, own []string) (others []ledger.Other) {
	for _, p := range all {
		if _, _, rebuild := RebuildOf(p.ID); rebuild || slices.Contains(own, p.ID) {
			continue
		}
		account := ledger.AccountOf(p.Totals)
		others = append(others, ledger.Other{ID: p.ID, Counted: account.Counted, Duplicates: account.Duplicates})
	}
	return others
}

// Totals returns this data directory's lifetime totals, and false while they are not known: until the store has been
// reached for the first time. Event types beyond the limit of the label are under event.Other.
func (a *Aggregator) Totals() (meter.Totals, bool) {
	totals, known := a.accounts.Totals()
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
	newest := ledger.Times{}
	for t, millis := range a.accounts.Newest() {
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
	a.accounts.Commit(first, batch.Types, batch.N, batch.AcceptedAt.UnixMilli())
}
