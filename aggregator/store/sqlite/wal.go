package sqlite

import (
	"database/sql"
	"fmt"
)

// walLimit is the size at which the log is emptied by force. SQLite moves it into the file by itself at every 1,000 pages,
// but begins it anew only at a moment when nobody reads from it, which may never come while readers overlap.
const walLimit = 64 << 20

// reader returns the pool for one read, after a pause where the log is being emptied.
func (s *Store) reader() *sql.DB {
	s.emptying.RLock()
	defer s.emptying.RUnlock()
	return s.readers
}

// limitWAL empties a log that has grown too long; the caller has the writer's turn. It waits (for busy_timeout at most) for
// the reads that have begun, and lets no other begin meanwhile: they would take turns in keeping the log. Where that
// fails, say for another process that sits in an open transaction, it is tried again when the log has doubled, lest
// every batch waits.
func (s *Store) limitWAL() {
	w := s.writer
	size := fileBytes(s.path + "-wal")
	if size < max(w.walLimit, w.walRetry) {
		return
	}
	s.emptying.Lock()
	defer s.emptying.Unlock()
	if err := w.emptyWAL(); err != nil {
		w.walRetry = 2 * size
		s.metrics.walBusy.Inc()
		s.log.Warn("write-ahead log not emptied", "wal_bytes", size, "retry_bytes", w.walRetry, "err", err)
		return
	}
	w.walRetry = 0
}

func (w *writer) emptyWAL() error {
	var busy bool
	var frames, moved int
	if err := w.row("PRAGMA wal_checkpoint(TRUNCATE)", nil, &busy, &frames, &moved); err != nil {
		return err
	}
	if busy {
		return fmt.Errorf("a reader holds %d of its %d pages", frames-moved, frames)
	}
	return nil
}
