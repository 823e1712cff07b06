package sqlite

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"usaged/aggregator/store"
)

// schemaVersion is the version of schema.sql. A file with a higher one was made by a newer usaged.
const schemaVersion = 1

//go:embed schema.sql
var schema string

// migrate makes the tables in an empty file, and otherwise checks that they are ours.
func migrate(ctx context.Context, conn *sql.Conn, partitions int) error {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	meta, err := readMeta(ctx, tx)
	if err != nil {
		return err
	}
	if meta != nil {
		return checkMeta(meta, partitions)
	}
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return fmt.Errorf("make tables: %w", err)
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO meta VALUES ('schema', ?), ('partitions', ?), ('epoch', ?)",
		strconv.Itoa(schemaVersion), strconv.Itoa(partitions), formatVersion(rand.Uint64()))
	if err != nil {
		return fmt.Errorf("write meta: %w", err)
	}
	return tx.Commit()
}

// readMeta returns the facts of table meta, nil for an empty file.
func readMeta(ctx context.Context, tx *sql.Tx) (map[string]string, error) {
	var tables, ours int
	err := tx.QueryRowContext(ctx, "SELECT count(*), count(*) FILTER (WHERE name = 'meta') FROM sqlite_schema").Scan(&tables, &ours)
	if err != nil {
		return nil, err
	}
	if tables == 0 {
		return nil, nil
	}
	if ours == 0 {
		return nil, fmt.Errorf("%w: it is the database of another program; name a file that doesn't exist yet", store.ErrIncompatible)
	}
	rows, err := tx.QueryContext(ctx, "SELECT name, value FROM meta")
	if err != nil {
		return nil, fmt.Errorf("read meta: %w", err)
	}
	meta := make(map[string]string)
	var name, value string
	return meta, scanAll(rows, func() { meta[name] = value }, &name, &value)
}

func checkMeta(meta map[string]string, partitions int) error {
	if v, err := strconv.Atoi(meta["schema"]); err != nil || v > schemaVersion {
		return fmt.Errorf("%w: its schema is %q, this usaged knows %d; start the newer usaged, or %s",
			store.ErrIncompatible, meta["schema"], schemaVersion, startAfresh)
	}
	if meta["partitions"] != strconv.Itoa(partitions) {
		return fmt.Errorf("%w: it has %s partitions, not %d; configure as many, or %s",
			store.ErrIncompatible, meta["partitions"], partitions, startAfresh)
	}
	return nil
}

const startAfresh = "stop usaged and delete the file with its -wal and -shm files: it is rebuilt from the journal"

// explain adds to an error of SQLite what an operator can do about it.
func explain(err error) error {
	e, ok := errors.AsType[*driver.Error](err)
	if !ok {
		return err
	}
	if e.Code() == sqlite3.SQLITE_IOERR_DATA {
		return fmt.Errorf("%w: %w; %s", ErrDamaged, err, startAfresh)
	}
	advice, ok := map[int]string{
		sqlite3.SQLITE_NOTADB:   "if it is the usage database, " + startAfresh,
		sqlite3.SQLITE_CORRUPT:  startAfresh,
		sqlite3.SQLITE_CANTOPEN: "check that the directory exists and can be written",
		sqlite3.SQLITE_READONLY: "check the owner and the mode of the file and its directory",
		sqlite3.SQLITE_FULL:     "free some space on the disk",
		sqlite3.SQLITE_BUSY:     "another process holds its lock: nobody else may write to it",
	}[e.Code()&0xff]
	if !ok {
		return err
	}
	return fmt.Errorf("%w; %s", err, advice)
}

// formatVersion writes a random number in the form in which versions are handed out.
func formatVersion(v uint64) string { return fmt.Sprintf("%016x", v) }

// scanAll calls each after every row was scanned into dest, and closes rows.
func scanAll(rows *sql.Rows, each func(), dest ...any) error {
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		each()
	}
	return rows.Err()
}
