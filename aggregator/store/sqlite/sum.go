package sqlite

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// CROSS JOIN keeps SQLite from scanning the cells first. One statement sees the file as of one moment.
const sumSQL = `SELECT c.key, c.total FROM rollup r CROSS JOIN cell c ON c.rollup = r.id
	WHERE r.day IN (SELECT value FROM json_each(?)) AND r.type = ? AND r.meter = ? AND r.dim = ?`

// Sum adds up a rollup over days.
func (s *Store) Sum(ctx context.Context, rollup meter.Rollup, days []event.Day, yield func(key []byte, total uint64)) error {
	if err := s.sum(ctx, rollup, days, yield); err != nil {
		return fmt.Errorf("sum rollup: %w", explain(err))
	}
	return nil
}

func (s *Store) sum(ctx context.Context, rollup meter.Rollup, days []event.Day, yield func(key []byte, total uint64)) error {
	if len(days) == 1 && s.partitions == 1 {
		var buf []byte
		return s.scanCells(ctx, rollup, days, func(key string, total uint64) {
			buf = append(buf[:0], key...)
			yield(buf, total)
		})
	}
	var totals []cell
	indices := make(map[string]int)
	err := s.scanCells(ctx, rollup, days, func(key string, total uint64) {
		if i, ok := indices[key]; ok {
			totals[i].total += total
			return
		}
		indices[key] = len(totals)
		totals = append(totals, cell{key, total})
	})
	if err != nil {
		return err
	}
	var buf []byte
	for _, c := range totals {
		buf = append(buf[:0], c.key...)
		yield(buf, c.total)
	}
	return nil
}

// checkEvery is the number of rows after which a scan looks at its context, some 0.3 ms.
const checkEvery = 1024

// scanCells calls each for every cell of a rollup. It asks the driver itself: of the time that a row takes through
// database/sql, a third goes into copying it out (0.38 against 0.25 µs).
func (s *Store) scanCells(ctx context.Context, rollup meter.Rollup, days []event.Day, each func(key string, total uint64)) error {
	conn, err := s.reader().Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // back into the pool
	return conn.Raw(func(c any) error {
		rows, err := c.(sqldriver.QueryerContext).QueryContext(context.WithoutCancel(ctx), sumSQL, []sqldriver.NamedValue{
			{Ordinal: 1, Value: jsonDays(days)},
			{Ordinal: 2, Value: rollup.Type},
			{Ordinal: 3, Value: rollup.Meter},
			{Ordinal: 4, Value: string(rollup.Dim)},
		})
		if err != nil {
			return err
		}
		defer rows.Close()
		row := make([]sqldriver.Value, 2)
		for n := 0; ; n++ {
			if n%checkEvery == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			err := rows.Next(row)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			each(row[0].(string), uint64(row[1].(int64)))
		}
	})
}
