package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"usaged/aggregator/ledger"
	"usaged/api/auth"
)

// ledgerTimeout bounds the wait for a store that was not reached yet.
const ledgerTimeout = 5 * time.Second

// getLedger answers what became of every event.
func (a *API) getLedger(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), ledgerTimeout)
	defer cancel()
	report, err := a.cfg.Ledger.Ledger(ctx)
	if err != nil {
		return refuseReading(r, fmt.Errorf("read ledger: %w", err))
	}
	w.Header().Set("Cache-Control", "no-store")
	return streamJSON(w, func(s *stream) {
		s.ledger(report)
		s.raw(`,"rejected":{`)
		i := 0
		for c, counter := range a.metrics.rejected {
			if counter != nil {
				s.key(i, classes[c].code)
				s.number(counter.Get())
				i++
			}
		}
		s.raw("}}")
	})
}

// ledger encodes the accounts and leaves the object open.
func (s *stream) ledger(l *ledger.Report) {
	s.raw(`{"producers":[`)
	for i, id := range l.Producers {
		if i > 0 {
			s.raw(",")
		}
		s.text(id)
	}
	s.raw(`],"all":`)
	s.account(l.All)
	s.raw(`,"types":{`)
	for i, name := range sortedKeys(l.Types) {
		s.key(i, name)
		s.account(l.Types[name])
	}
	s.raw(`},"others":[`)
	for i, other := range l.Others {
		if i > 0 {
			s.raw(",")
		}
		s.raw(`{"id":`)
		s.text(other.ID)
		s.raw(`,"counted":`)
		s.number(other.Counted)
		s.raw(`,"duplicates":`)
		s.number(other.Duplicates)
		s.raw("}")
	}
	s.raw(`],"others_stale":`)
	s.raw(strconv.FormatBool(l.OthersStale))
}

func (s *stream) account(acc ledger.Account) {
	s.raw(`{"accepted":`)
	s.number(acc.Accepted)
	s.raw(`,"counted":`)
	s.number(acc.Counted)
	s.raw(`,"duplicates":`)
	s.number(acc.Duplicates)
	s.raw(`,"pending":`)
	s.number(acc.Pending)
	s.raw(`,"damaged":`)
	s.number(acc.Damaged)
	s.raw("}")
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
