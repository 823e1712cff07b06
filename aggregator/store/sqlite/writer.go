package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// writer owns the one connection that writes.
type writer struct {
	db *sql.DB
	// turn holds a token while a transaction is open. It guards what follows.
	turn chan struct{}

	// Statements of the hot path, prepared on db and taken into each transaction.
	stmts statements
	// days remembers what the tables hold about the days that are being written.
	days dayCache
	// dataVersion changes when another connection has written to the file, which makes days stale.
	dataVersion int64
	// walLimit is the size of the log at which it is emptied by force, walRetry a higher one after that failed, or 0.
	walLimit, walRetry int64
}

// statements are those of the hot path, prepared once.
type statements struct {
	upserts statementSet
	taken   statementSet
	claims  statementSet
	hasKey  *sql.Stmt
	total   *sql.Stmt
}

// statementSet is one statement for several numbers of rows. Many rows at once save most of the cost of a call into the
// driver; the gain is all but complete at ten, and fixed numbers let the statements be prepared.
type statementSet [len(setRows)]*sql.Stmt

var setRows = [...]int{128, 16, 1}

const (
	upsertHead = "INSERT INTO cell (rollup, key, total) VALUES (?, ?, ?)"
	upsertRow  = ", (?, ?, ?)"
	upsertTail = " ON CONFLICT DO UPDATE SET total = min(total + excluded.total, 9007199254740992)" // meter.MaxTotal
)

func (w *writer) prepare(ctx context.Context) (err error) {
	prepare := func(query string) *sql.Stmt {
		if err != nil {
			return nil
		}
		var stmt *sql.Stmt
		if stmt, err = w.db.PrepareContext(ctx, query); err != nil {
			err = fmt.Errorf("prepare %.80q: %w", query, err)
		}
		return stmt
	}
	prepareSet := func(head, row, tail string) (set statementSet) {
		for i, rows := range setRows {
			set[i] = prepare(head + strings.Repeat(row, rows-1) + tail)
		}
		return set
	}
	w.stmts.upserts = prepareSet(upsertHead, upsertRow, upsertTail)
	w.stmts.taken = prepareSet(takenHead, takenRow, takenTail)
	w.stmts.claims = prepareSet(claimHead, claimRow, "")
	w.stmts.hasKey = prepare("SELECT EXISTS (SELECT 1 FROM cell WHERE rollup = ? AND key = ?)")
	w.stmts.total = prepare("INSERT INTO lifetime (partition, producer, family, a, b, total) VALUES (?, ?, ?, ?, ?, ?)" +
		" ON CONFLICT DO UPDATE SET total = excluded.total")
	return err
}

// inSets calls do for consecutive parts of n rows, with the statement that takes as many.
func (a *application) inSets(set statementSet, n int, do func(stmt *sql.Stmt, from, to int) error) error {
	from := 0
	for i, rows := range setRows {
		if n-from < rows {
			continue
		}
		stmt := a.tx.Stmt(set[i])
		for ; n-from >= rows; from += rows {
			if err := a.ctx.Err(); err != nil {
				return err
			}
			if err := do(stmt, from, from+rows); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) close() error { return w.db.Close() }

// write runs do in a transaction, alone, and commits where do returns true. Cancelling ctx ends the wait for the turn; do
// itself looks at ctx where it takes long, since interrupting a statement would cost a goroutine per statement and the
// connection.
func (s *Store) write(ctx context.Context, do func(tx *sql.Tx) (commit bool, err error)) (err error) {
	w := s.writer
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() {
		if err != nil {
			w.days.clear() // it may know rows that were rolled back
		}
	}()
	tx, err := w.db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	if err := w.noticeOthers(tx); err != nil {
		return err
	}
	commit, err := do(tx)
	if err != nil || !commit {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	s.limitWAL()
	return nil
}

// noticeOthers forgets what is remembered where another process has changed the file, say a person with a shell.
func (w *writer) noticeOthers(tx *sql.Tx) error {
	var version int64
	if err := tx.QueryRow("PRAGMA data_version").Scan(&version); err != nil {
		return fmt.Errorf("read data version: %w", err)
	}
	if version != w.dataVersion {
		w.days.clear()
	}
	w.dataVersion = version
	return nil
}
