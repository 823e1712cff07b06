package sqlite

import (
	"cmp"
	"database/sql"
	"fmt"
	"slices"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

type cell struct {
	key   string
	total uint64
}

// addCells adds cells to a rollup of a day. Of a rollup by reference, the cells that exceed the limit go to event.Other.
func (a *application) addCells(state *dayState, delta *meter.DayDelta, rollup meter.Rollup, cells meter.Cells) error {
	if len(cells) == 0 {
		return nil
	}
	rs, err := a.rollup(state, rollup)
	if err != nil {
		return err
	}
	sorted := sortCells(cells)
	if rollup.Dim == meter.ByReference {
		if sorted, err = a.admitReferences(rs, sorted, func() []string { return delta.OrderedKeys(rollup) }); err != nil {
			return err
		}
	}
	return a.upsert(rs.id, sorted)
}

// rollup returns the state of a rollup, which it makes where there is none.
func (a *application) rollup(state *dayState, r meter.Rollup) (*rollupState, error) {
	if rs := state.rollups[r]; rs != nil {
		return rs, nil
	}
	res, err := a.exec("INSERT INTO rollup (day, partition, type, meter, dim) VALUES (?, ?, ?, ?, ?)",
		int64(state.day), state.partition, r.Type, r.Meter, string(r.Dim))
	if err != nil {
		return nil, fmt.Errorf("make rollup: %w", err)
	}
	id, err := res.LastInsertId()
	if err != nil {
		return nil, fmt.Errorf("make rollup: %w", err)
	}
	rs := &rollupState{id: id}
	state.rollups[r] = rs
	return rs, nil
}

// sortCells brings the cells into the order of the table, so that neighbouring rows are written one after the other.
func sortCells(cells meter.Cells) []cell {
	sorted := make([]cell, 0, len(cells))
	for key, total := range cells {
		sorted = append(sorted, cell{key, total})
	}
	slices.SortFunc(sorted, func(a, b cell) int { return cmp.Compare(a.key, b.key) })
	return sorted
}

const hasKeySQL = "SELECT EXISTS (SELECT 1 FROM cell WHERE rollup = ? AND key = ?)"

// admitReferences returns the cells that have a place: all of them while the rollup is far from its limit, which costs
// nothing; near it, those whose keys exist or, in the order given, still have room, and one of event.Other with the rest.
func (a *application) admitReferences(rs *rollupState, cells []cell, order func() []string) ([]cell, error) {
	if rs.keys != unknownKeys && rs.keys+len(cells) <= store.MaxReferencesPerDay {
		rs.keys += len(cells)
		return cells, nil
	}
	err := a.row("SELECT count(*) FROM cell WHERE rollup = ? AND key <> ?", []any{rs.id, event.Other}, &rs.keys)
	if err != nil {
		return nil, fmt.Errorf("count references: %w", err)
	}
	if rs.keys+len(cells) <= store.MaxReferencesPerDay {
		rs.keys += len(cells)
		return cells, nil
	}
	admitted := make([]cell, 0, len(cells))
	other, refused := cell{key: event.Other}, uint64(0)
	for _, key := range order() {
		at, _ := slices.BinarySearchFunc(cells, key, func(c cell, key string) int { return cmp.Compare(c.key, key) })
		c := cells[at]
		known := c.key == event.Other
		if !known {
			if err := a.row(hasKeySQL, []any{rs.id, c.key}, &known); err != nil {
				return nil, fmt.Errorf("look up reference: %w", err)
			}
		}
		switch {
		case known:
			admitted = append(admitted, c)
		case rs.keys < store.MaxReferencesPerDay:
			rs.keys++
			admitted = append(admitted, c)
		default:
			refused++
			other.total += c.total
		}
	}
	if refused > 0 {
		admitted = append(admitted, other)
		a.out.Overflow.References += refused
	}
	return admitted, nil
}

// upserts add to cells, which stay at meter.MaxTotal.
var upserts = newStatementSet("INSERT INTO cell (rollup, key, total) VALUES (?, ?, ?)", ", (?, ?, ?)",
	" ON CONFLICT DO UPDATE SET total = min(total + excluded.total, 9007199254740992)")

// upsert adds cells to a rollup. The same key may appear twice.
func (a *application) upsert(rollup int64, cells []cell) error {
	args := make([]any, 0, 3*setRows[0])
	err := a.inSets(a.ctx, upserts, len(cells), func(stmt *sql.Stmt, from, to int) error {
		args = args[:0]
		for _, c := range cells[from:to] {
			args = append(args, rollup, c.key, int64(min(c.total, meter.MaxTotal)))
		}
		_, err := stmt.Exec(args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("write cells: %w", err)
	}
	return nil
}
