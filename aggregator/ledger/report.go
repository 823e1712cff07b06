package ledger

import "context"

// Report is the accounts of one data directory since its beginning. In each account
//
//	accepted = counted + duplicates + pending + damaged
//
// and the sides are kept apart: accepted by the journal, pending by what the journal has and the applier hasn't seen,
// counted and duplicates by the totals in the store. Damaged are the events that can't be read any more and had not been
// counted before. Where a data directory was copied or restored, another one may have gone on under the id that this one
// counted under until then: what it has counted beyond the events of this journal is taken as accepted. Under the id that new
// events count under nothing is, so that events that are lost, or counted twice, leave the ledger unbalanced.
type Report struct {
	// Producers are the ids under which this data directory has counted.
	Producers []string
	All       Account
	// Types has an account per event type. The types of damaged events are unknown: only All counts them.
	Types map[string]Account
	// Others are the other producers that the store knows. OthersStale says that it could not be asked, and that they are those
	// of the last answer, none where there was none.
	Others      []Other
	OthersStale bool
}

// Account is a number of events by what became of them.
type Account struct {
	Accepted, Counted, Duplicates, Pending, Damaged uint64
}

// Other is what another data directory has contributed.
type Other struct {
	ID                  string
	Counted, Duplicates uint64
}

// Report takes a consistent view. It waits until the store's totals are known.
func (l *Ledger) Report(ctx context.Context) (*Report, error) {
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.changed.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.known {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		l.changed.Wait()
	}
	r := &Report{Types: map[string]Account{}}
	r.All.Accepted, r.All.Damaged = l.end+l.surplus, l.damaged
	edit := func(eventType string, f func(*Account)) {
		t := r.Types[eventType]
		f(&t)
		f(&r.All)
		r.Types[eventType] = t
	}
	for t, n := range l.accepted {
		acc := r.Types[t]
		acc.Accepted = n
		r.Types[t] = acc
	}
	for t, n := range l.pending {
		if n > 0 {
			edit(t, func(acc *Account) { acc.Pending += n })
		}
	}
	for s, n := range l.sum {
		if of, ok := became(s.Family); ok {
			edit(s.A, func(acc *Account) { *of(acc) += n })
		}
	}
	return r, nil
}
