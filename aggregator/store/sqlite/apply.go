package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// Apply adds one batch, see store.Store.
func (s *Store) Apply(ctx context.Context, batch *store.Batch) (store.Outcome, error) {
	if err := batch.Check(s.partitions); err != nil {
		return store.Outcome{}, fmt.Errorf("apply batch: %w", err)
	}
	var out store.Outcome
	err := s.write(ctx, func() (bool, error) {
		a := application{ctx: ctx, writer: s.writer, batch: batch}
		err := a.run()
		out = a.out
		return out.Applied, err
	})
	if errors.Is(err, store.ErrFenced) {
		return out, err
	}
	if err != nil {
		return store.Outcome{}, fmt.Errorf("apply batch to partition %d: %w", batch.Partition, explain(err))
	}
	return out, nil
}

// application is one batch on its way into one transaction.
type application struct {
	*writer
	ctx   context.Context
	batch *store.Batch
	out   store.Outcome
}

// run takes the steps that the contract lists, in its order. It leaves out.Applied false where the batch must not take
// effect; the caller then rolls back.
func (a *application) run() error {
	b := a.batch
	offset, session, err := a.offset()
	if err != nil {
		return err
	}
	if session > b.Session {
		return a.fenced()
	}
	chain := chainKey{b.Partition, b.Producer}
	if a.out.Offset = offset; offset != b.Prev {
		a.out.Overflow = a.overflows[chain]
		return nil
	}
	claims := sortClaims(b.Claims)
	sought := claims
	if len(b.Checks) > 0 {
		sought = sortClaims(slices.Concat(b.Claims, b.Checks))
	}
	if err := a.findTaken(sought); err != nil || len(a.out.Taken) > 0 {
		return err
	}
	if session < b.Session {
		if err := a.takeOver(); err != nil {
			return err
		}
	}
	addClaims := func() error { return a.addClaims(claims) }
	for _, step := range []func() error{a.addDays, a.setTotals, addClaims, a.moveOffset} {
		if err := step(); err != nil {
			return err
		}
	}
	a.out.Applied, a.out.Offset = true, b.Last
	if a.overflows[chain] = a.out.Overflow; a.out.Overflow == (store.Overflow{}) {
		delete(a.overflows, chain)
	}
	return nil
}

func (a *application) offset() (offset, session uint64, err error) {
	stmt, err := a.prepared(offsetSQL)
	if err != nil {
		return 0, 0, err
	}
	return readOffset(stmt.QueryRow(a.batch.Partition, a.batch.Producer))
}

// fenced finds where the first session above the batch's took over.
func (a *application) fenced() error {
	err := a.row(`SELECT "offset" FROM takeover WHERE partition = ? AND producer = ? AND session > ? ORDER BY session LIMIT 1`,
		[]any{a.batch.Partition, a.batch.Producer, int64(a.batch.Session)}, &a.out.Offset)
	if err != nil {
		return fmt.Errorf("look up takeover: %w", err)
	}
	return store.ErrFenced
}

// takeOver records where a new session begins. Of two in a row that began at the same offset the later one says all that both
// say, so a daemon that takes over again and again and applies nothing leaves one row.
func (a *application) takeOver() error {
	b := a.batch
	_, err := a.exec(`DELETE FROM takeover WHERE partition = ?1 AND producer = ?2 AND "offset" = ?3
		AND session = (SELECT max(session) FROM takeover WHERE partition = ?1 AND producer = ?2)`, b.Partition, b.Producer, int64(b.Prev))
	if err != nil {
		return fmt.Errorf("record takeover: %w", err)
	}
	_, err = a.exec(`INSERT INTO takeover (partition, producer, session, "offset") VALUES (?, ?, ?, ?)`,
		b.Partition, b.Producer, int64(b.Session), int64(b.Prev))
	if err != nil {
		return fmt.Errorf("record takeover: %w", err)
	}
	return nil
}

func (a *application) addDays() error {
	if len(a.batch.Days) == 0 {
		return nil
	}
	version := int64(rand.Uint64()) // random, so that a store that was rebuilt doesn't repeat one
	for _, day := range sortedKeys(a.batch.Days) {
		delta := a.batch.Days[day]
		if err := a.addDay(day, delta); err != nil {
			return fmt.Errorf("add day %v: %w", day, err)
		}
		_, err := a.exec("INSERT INTO day (day, version) VALUES (?, ?) ON CONFLICT DO UPDATE SET version = excluded.version",
			int64(day), version)
		if err != nil {
			return fmt.Errorf("set version of day %v: %w", day, err)
		}
	}
	return nil
}

const setTotalSQL = `INSERT INTO lifetime (partition, producer, family, a, b, total) VALUES (?, ?, ?, ?, ?, ?)
	ON CONFLICT DO UPDATE SET total = excluded.total`

func (a *application) setTotals() error {
	for series, total := range a.batch.Totals {
		_, err := a.exec(setTotalSQL, a.batch.Partition, a.batch.Producer, series.Family, series.A, series.B, int64(total))
		if err != nil {
			return fmt.Errorf("set lifetime total: %w", err)
		}
	}
	return nil
}

func (a *application) moveOffset() error {
	_, err := a.exec(`INSERT INTO producer (partition, id, "offset", session) VALUES (?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET "offset" = excluded."offset", session = excluded.session`,
		a.batch.Partition, a.batch.Producer, int64(a.batch.Last), int64(a.batch.Session))
	if err != nil {
		return fmt.Errorf("set offset: %w", err)
	}
	return nil
}

// countTypeSQL adds to a count, which stays at meter.MaxTotal.
const countTypeSQL = `INSERT INTO day_type (day, partition, type, count) VALUES (?, ?, ?, ?)
	ON CONFLICT DO UPDATE SET count = min(count + excluded.count, 9007199254740992)`

// addDay adds the delta of one day, turning away what exceeds the limits.
func (a *application) addDay(day event.Day, delta *meter.DayDelta) error {
	state, err := a.days.get(a.writer, day, a.batch.Partition)
	if err != nil {
		return err
	}
	counts, refused := state.admit(delta)
	for t := range refused {
		a.out.Overflow.Types += delta.Types[t]
	}
	for _, t := range sortedKeys(counts) {
		_, err := a.exec(countTypeSQL, int64(day), a.batch.Partition, t, int64(counts[t]))
		if err != nil {
			return fmt.Errorf("count type: %w", err)
		}
	}
	for rollup, cells := range redirect(delta.Rollups, refused) {
		if err := a.addCells(state, delta, rollup, cells); err != nil {
			return fmt.Errorf("add cells: %w", err)
		}
	}
	return nil
}
