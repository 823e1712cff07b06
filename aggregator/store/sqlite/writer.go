package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"usaged/aggregator/store"
)

// writer owns the one connection that writes. Whoever has its turn may use it.
type writer struct {
	db   *sql.DB
	conn *sql.Conn
	// turn holds a token while somebody has the turn. It guards what follows.
	turn chan struct{}

	// stmts are the statements prepared on conn, by their text.
	stmts map[string]*sql.Stmt
	// days remembers what the tables hold about the days that are being written.
	days dayCache
	// overflows is what the last batch of each chain had no room for, where there is any.
	overflows map[chainKey]store.Overflow
	// dataVersion changes when another connection has written to the file, which makes days stale.
	dataVersion int64
	// walLimit is the size of the log at which it is emptied by force, walRetry a higher one after that failed, or 0.
	walLimit, walRetry int64
}

// chainKey is a producer in a partition.
type chainKey struct {
	partition int
	producer  string
}

// newWriter takes over db, a pool of one connection, and pins that.
func newWriter(ctx context.Context, db *sql.DB) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &writer{
		db: db, conn: conn, turn: make(chan struct{}, 1), stmts: make(map[string]*sql.Stmt),
		overflows: make(map[chainKey]store.Overflow), walLimit: walLimit,
	}, nil
}

// close may be called again.
func (w *writer) close() error {
	var errs []error
	for _, stmt := range w.stmts { // SQLite keeps the file open for a statement
		errs = append(errs, stmt.Close())
	}
	w.stmts = nil
	if err := w.conn.Close(); !errors.Is(err, sql.ErrConnDone) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, w.db.Close())...)
}

// prepared returns a statement that is prepared once in the life of the connection. Preparing is most of the cost of a
// statement that touches one row. It takes part in the transaction that is open on the connection.
func (w *writer) prepared(query string) (*sql.Stmt, error) {
	if stmt := w.stmts[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := w.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("prepare %.80q: %w", query, err)
	}
	w.stmts[query] = stmt
	return stmt, nil
}

func (w *writer) exec(query string, args ...any) (sql.Result, error) {
	stmt, err := w.prepared(query)
	if err != nil {
		return nil, err
	}
	return stmt.Exec(args...)
}

func (w *writer) query(query string, args ...any) (*sql.Rows, error) {
	stmt, err := w.prepared(query)
	if err != nil {
		return nil, err
	}
	return stmt.Query(args...)
}

// row scans the one row of a query into dest.
func (w *writer) row(query string, args []any, dest ...any) error {
	stmt, err := w.prepared(query)
	if err != nil {
		return err
	}
	return stmt.QueryRow(args...).Scan(dest...)
}

// statementSet is one statement for several numbers of rows. Many rows at once save most of the cost of a call into the
// driver; the gain is all but complete at ten, and fixed numbers let the statements be prepared.
type statementSet [len(setRows)]string

var setRows = [...]int{128, 16, 1}

// newStatementSet takes the text of a statement with one row, of a further row, and of the rest.
func newStatementSet(head, row, tail string) (set statementSet) {
	for i, rows := range setRows {
		set[i] = head + strings.Repeat(row, rows-1) + tail
	}
	return set
}

// inSets calls do for consecutive parts of n rows, with the statement that takes as many. It ends with ctx.
func (w *writer) inSets(ctx context.Context, set statementSet, n int, do func(stmt *sql.Stmt, from, to int) error) error {
	from := 0
	for i, rows := range setRows {
		for ; n-from >= rows; from += rows {
			if err := ctx.Err(); err != nil {
				return err
			}
			stmt, err := w.prepared(set[i])
			if err != nil {
				return err
			}
			if err := do(stmt, from, from+rows); err != nil {
				return err
			}
		}
	}
	return nil
}

// write runs do in a transaction, alone, and commits where do returns true. The end of ctx ends the wait for the turn; do
// itself looks at ctx where it takes long, since a statement that can be interrupted costs a goroutine.
func (s *Store) write(ctx context.Context, do func() (commit bool, err error)) (err error) {
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
	tx, err := w.conn.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	if err := w.noticeOthers(); err != nil {
		return err
	}
	commit, err := do()
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
func (w *writer) noticeOthers() error {
	var version int64
	if err := w.row("PRAGMA data_version", nil, &version); err != nil {
		return fmt.Errorf("read data version: %w", err)
	}
	if version != w.dataVersion {
		w.days.clear()
	}
	w.dataVersion = version
	return nil
}
