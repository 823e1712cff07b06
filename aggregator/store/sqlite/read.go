package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

const offsetSQL = `SELECT "offset", session FROM producer WHERE partition = ? AND id = ?`

// readOffset reads a row of offsetSQL, zeros where the producer is unknown.
func readOffset(row *sql.Row) (offset, session uint64, err error) {
	var o, s int64
	err = row.Scan(&o, &s)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read offset: %w", err)
	}
	return uint64(o), uint64(s), nil
}

// snapshot runs do in a transaction that only reads: all of it sees the file as of one moment.
func (s *Store) snapshot(ctx context.Context, do func(tx *sql.Tx) error) error {
	tx, err := s.reader().BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback() // there is nothing to commit
	return do(tx)
}

// Producer returns what a partition knows of a producer.
func (s *Store) Producer(ctx context.Context, partition int, id string) (store.Producer, error) {
	p := store.Producer{ID: id, Totals: make(meter.Totals)}
	err := s.snapshot(ctx, func(tx *sql.Tx) (err error) {
		if p.Offset, p.Session, err = readOffset(tx.QueryRowContext(ctx, offsetSQL, partition, id)); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, "SELECT family, a, b, total FROM lifetime WHERE partition = ? AND producer = ?", partition, id)
		if err != nil {
			return err
		}
		var series meter.Series
		var total int64
		return scanAll(rows, func() { p.Totals[series] = uint64(total) }, &series.Family, &series.A, &series.B, &total)
	})
	if err != nil {
		return store.Producer{}, fmt.Errorf("read producer: %w", explain(err))
	}
	return p, nil
}

// Producers returns all producers.
func (s *Store) Producers(ctx context.Context) ([]store.Producer, error) {
	var producers []store.Producer
	err := s.snapshot(ctx, func(tx *sql.Tx) error {
		found, err := s.offsets(ctx, tx)
		if err != nil {
			return err
		}
		if err := addTotals(ctx, tx, found); err != nil {
			return err
		}
		for _, p := range found {
			producers = append(producers, *p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read producers: %w", explain(err))
	}
	slices.SortFunc(producers, func(a, b store.Producer) int { return cmp.Compare(a.ID, b.ID) })
	return producers, nil
}

// offsets returns the producers with their lowest offset and highest session. A partition that doesn't know a producer has
// applied nothing of it: its offset there is 0.
func (s *Store) offsets(ctx context.Context, tx *sql.Tx) (map[string]*store.Producer, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, min("offset"), max(session), count(*) FROM producer GROUP BY id`)
	if err != nil {
		return nil, err
	}
	producers := make(map[string]*store.Producer)
	var id string
	var offset, session int64
	var partitions int
	add := func() {
		if partitions < s.partitions {
			offset = 0
		}
		producers[id] = &store.Producer{ID: id, Offset: uint64(offset), Session: uint64(session), Totals: make(meter.Totals)}
	}
	return producers, scanAll(rows, add, &id, &offset, &session, &partitions)
}

func addTotals(ctx context.Context, tx *sql.Tx, producers map[string]*store.Producer) error {
	rows, err := tx.QueryContext(ctx, "SELECT producer, family, a, b, sum(total) FROM lifetime GROUP BY producer, family, a, b")
	if err != nil {
		return err
	}
	var id string
	var series meter.Series
	var total int64
	add := func() {
		if p := producers[id]; p != nil {
			p.Totals[series] = uint64(total)
		}
	}
	return scanAll(rows, add, &id, &series.Family, &series.A, &series.B, &total)
}

// Versions returns the versions of days.
func (s *Store) Versions(ctx context.Context, days []event.Day) ([]string, error) {
	rows, err := s.reader().QueryContext(ctx, "SELECT day, version FROM day WHERE day IN (SELECT value FROM json_each(?))", jsonDays(days))
	if err != nil {
		return nil, fmt.Errorf("read versions: %w", explain(err))
	}
	found := make(map[event.Day]string, len(days))
	var day event.Day
	var version int64
	if err := scanAll(rows, func() { found[day] = formatVersion(uint64(version)) }, &day, &version); err != nil {
		return nil, fmt.Errorf("read versions: %w", explain(err))
	}
	versions := make([]string, len(days))
	for i, day := range days {
		versions[i] = found[day]
	}
	return versions, nil
}

// Types returns the number of events per type for each day.
func (s *Store) Types(ctx context.Context, days []event.Day) ([]map[string]uint64, error) {
	types := make([]map[string]uint64, len(days))
	indices := make(map[event.Day][]int, len(days))
	for i, day := range days {
		types[i] = make(map[string]uint64)
		indices[day] = append(indices[day], i)
	}
	rows, err := s.reader().QueryContext(ctx,
		"SELECT day, type, sum(count) FROM day_type WHERE day IN (SELECT value FROM json_each(?)) GROUP BY day, type", jsonDays(days))
	if err != nil {
		return nil, fmt.Errorf("read types: %w", explain(err))
	}
	var day event.Day
	var t string
	var count int64
	add := func() {
		for _, i := range indices[day] {
			types[i][t] = uint64(count)
		}
	}
	if err := scanAll(rows, add, &day, &t, &count); err != nil {
		return nil, fmt.Errorf("read types: %w", explain(err))
	}
	return types, nil
}

// jsonDays writes days as a JSON array, so that one statement takes any number of them.
func jsonDays(days []event.Day) string {
	buf := []byte{'['}
	for i, day := range days {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = strconv.AppendInt(buf, int64(day), 10)
	}
	return string(append(buf, ']'))
}
