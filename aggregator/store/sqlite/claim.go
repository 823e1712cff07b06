package sqlite

import (
	"bytes"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/store"
)

// Asking for many claims at once costs a quarter of asking for each. The partition comes behind the rows.
var takenClaims = newStatementSet("SELECT v.column1 FROM (VALUES (?, ?, ?, ?)", ", (?, ?, ?, ?)",
	") v CROSS JOIN claim c WHERE c.accepted_day = v.column2 AND c.partition = ? AND c.digest = v.column3"+
		fmt.Sprintf(" AND abs(c.accepted - v.column4) < %d", store.DuplicateWindow.Milliseconds()))

var insertClaims = newStatementSet("INSERT OR IGNORE INTO claim (accepted_day, partition, digest, accepted) VALUES (?, ?, ?, ?)",
	", (?, ?, ?, ?)", "")

func acceptedDay(millis int64) int64 { return int64(event.DayOf(time.UnixMilli(millis))) }

// indexed is a claim with its place in the batch.
type indexed struct {
	store.Claim
	index int
	day   int64
}

// sortClaims brings the claims into the order of the table, so that neighbouring rows are met one after the other.
func sortClaims(claims []store.Claim) []indexed {
	sorted := make([]indexed, len(claims))
	for i, c := range claims {
		sorted[i] = indexed{c, i, acceptedDay(c.AcceptedMillis)}
	}
	slices.SortFunc(sorted, func(a, b indexed) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	return sorted
}

// findTaken lists the claims that conflict with the table: those on whose day of acceptance, or on the day before or after,
// the same digest was claimed near enough.
func (a *application) findTaken(claims []indexed) error {
	days := make(map[int64]bool) // whether the table has claims of a day, where that is known
	for _, distance := range []int64{-1, 0, 1} {
		near := make([]indexed, 0, len(claims))
		for _, c := range claims {
			c.day += distance
			has, known := days[c.day]
			if !known {
				var err error
				if has, err = a.hasClaims(c.day); err != nil {
					return err
				}
				days[c.day] = has
			}
			if has {
				near = append(near, c)
			}
		}
		if err := a.findTakenOn(near); err != nil {
			return fmt.Errorf("look up claims: %w", err)
		}
	}
	slices.Sort(a.out.Taken)
	a.out.Taken = slices.Compact(a.out.Taken)
	return nil
}

func (a *application) hasClaims(day int64) (has bool, err error) {
	err = a.row("SELECT EXISTS (SELECT 1 FROM claim WHERE accepted_day = ? AND partition = ?)", []any{day, a.batch.Partition}, &has)
	if err != nil {
		return false, fmt.Errorf("look up claims: %w", err)
	}
	return has, nil
}

func (a *application) findTakenOn(claims []indexed) error {
	var args []any
	return a.inSets(a.ctx, takenClaims, len(claims), func(stmt *sql.Stmt, from, to int) error {
		args = args[:0]
		for i := from; i < to; i++ {
			c := &claims[i]
			args = append(args, c.index, c.day, c.Digest[:], c.AcceptedMillis)
		}
		rows, err := stmt.Query(append(args, a.batch.Partition)...)
		if err != nil {
			return err
		}
		var index int
		return scanAll(rows, func() { a.out.Taken = append(a.out.Taken, index) }, &index)
	})
}

// addClaims records the claims.
func (a *application) addClaims(claims []indexed) error {
	var args []any
	err := a.inSets(a.ctx, insertClaims, len(claims), func(stmt *sql.Stmt, from, to int) error {
		args = args[:0]
		for i := from; i < to; i++ {
			c := &claims[i]
			args = append(args, c.day, a.batch.Partition, c.Digest[:], c.AcceptedMillis)
		}
		_, err := stmt.Exec(args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("record claims: %w", err)
	}
	return nil
}
