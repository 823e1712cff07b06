// Package sqlite keeps the rollups in one SQLite file: the store of a daemon that runs alone.
//
// A batch is durable when Apply returns: it is one transaction, written to the write-ahead log and synced. One batch is
// written at a time; readers use connections of their own and see the file as the last finished batch left it, so neither
// waits for the other. What doesn't fit on the disk is an error, and a later Apply succeeds once there is room.
//
// The file is a view of the journal. Deleting it (with its -wal and -shm files, while the daemon is stopped) loses nothing
// that the journal and its checkpoints still hold. Space that expired days leave is used again; the file doesn't shrink.
// It may be queried at any time:
//
//	sqlite3 usage.db "SELECT event_type, sum(count) FROM events WHERE day = '2026-11-23' GROUP BY 1"
//
// The views events, daily, meters, producers and totals are made for that; the tables under them are described in
// schema.sql. Another process must not write to the file.
//
// A Store is safe for concurrent use. It should be the only one on its file: a second one would be correct, yet slow.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"

	vm "github.com/VictoriaMetrics/metrics"
	_ "modernc.org/sqlite" // the driver

	"usaged/aggregator/store"
)

// Config says which file to open.
type Config struct {
	// Path is the database file. It is created where it doesn't exist, its directory is not. Required.
	Path string
	// Partitions is the number of partitions, fixed when the file is created. 0 means 1.
	Partitions int
	// Log receives warnings. nil discards them.
	Log *slog.Logger
	// Metrics receives the metrics that Help lists, until Close. nil keeps none.
	Metrics *vm.Set
}

// Store is a store.Store in one SQLite file.
type Store struct {
	path       string
	partitions int
	claimStep  int // claimStep, less in tests
	log        *slog.Logger
	metrics    *metrics

	// readers is a small pool of connections that cannot write. Ask reader for it.
	readers *sql.DB
	// emptying is held while the log is emptied. A read passes through it and does not keep it.
	emptying sync.RWMutex
	writer   *writer
}

var _ store.Store = (*Store)(nil)

// readerConns bounds the connections that read at the same time; further reads wait. Each has its own page cache.
const readerConns = 4

// Open opens the file, or creates it. The error wraps store.ErrIncompatible where the file was made with another number of
// partitions or by a newer usaged.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Path == "" {
		return nil, errors.New("open usage database: no path is given")
	}
	if cfg.Partitions < 0 {
		return nil, fmt.Errorf("open usage database: %d partitions", cfg.Partitions)
	}
	cfg.Partitions = max(cfg.Partitions, 1)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s, err := open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open usage database %s: %w", cfg.Path, explain(err))
	}
	return s, nil
}

func open(ctx context.Context, cfg Config) (_ *Store, err error) {
	s := &Store{path: cfg.Path, partitions: cfg.Partitions, claimStep: claimStep, log: cfg.Log.With("component", "sqlite")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := registerChecksums(); err != nil {
		return nil, err
	}
	checksums, err := prepare(cfg.Path)
	if err != nil {
		return nil, err
	}
	if !checksums {
		s.log.Info("the database was made without checksums: damage of the disk may go unnoticed in it. To have them, " + startAfresh)
	}
	db, err := openPool(cfg.Path, 1, writerPragmas, checksums)
	if err != nil {
		return nil, err
	}
	if s.writer, err = newWriter(ctx, db); err != nil {
		return nil, err
	}
	if err := migrate(ctx, s.writer.conn, cfg.Partitions); err != nil {
		return nil, err
	}
	if s.readers, err = openPool(cfg.Path, readerConns, readerPragmas, checksums); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(cfg.Metrics, cfg.Path)
	return s, nil
}

// The pragmas of each connection. The driver sets busy_timeout first and the others in alphabetical order.
var (
	writerPragmas = []string{
		// A person's sqlite3 shell may hold a lock for a moment.
		"busy_timeout(5000)",
		// 32 MiB, so that the cells of today and the ids of the last hours stay in memory.
		"cache_size(-32768)",
		// Readers don't block the writer, nor the writer them; a commit is one append and one sync.
		"journal_mode(WAL)",
		// After a burst, give the disk space of the log back, but for 16 MiB.
		"journal_size_limit(16777216)",
		// Sync the log at every commit. NORMAL would lose acknowledged batches in a power cut.
		"synchronous(FULL)",
	}
	readerPragmas = []string{
		"busy_timeout(5000)",
		// 4 MiB each: a scan meets every page once, and the operating system caches the file.
		"cache_size(-4096)",
		"query_only(ON)",
		// Sort in memory: a full disk must not fail a read.
		"temp_store(MEMORY)",
	}
)

// openPool returns a pool of at most conns connections, each with the pragmas set, that stay open.
func openPool(path string, conns int, pragmas []string, checksums bool) (*sql.DB, error) {
	// _txlock concerns the writer alone: it takes the write lock at once, for fear of a deadlock later. A transaction that
	// only reads ignores it.
	query := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}
	if checksums {
		query.Set("vfs", checksumVFS)
	}
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// Partitions returns the number of partitions.
func (s *Store) Partitions() int { return s.partitions }

// MaxCells returns the size of a batch that is applied in about a second.
func (s *Store) MaxCells() int { return 200_000 }

// Close moves the log into the file and releases both.
func (s *Store) Close() error {
	var err error
	if s.readers != nil {
		err = s.readers.Close()
	}
	if s.writer != nil {
		err = errors.Join(err, s.writer.close())
	}
	s.metrics.close()
	if err != nil {
		return fmt.Errorf("close usage database: %w", err)
	}
	return nil
}
