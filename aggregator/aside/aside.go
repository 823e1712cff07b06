// Package aside moves files that cannot be used out of the way, so that the daemon starts without what was in them. It is for
// what events do not depend on: the samples of the embedded Prometheus, cursors of remote write, planned quiet times, and the
// embedded database, which is made again from the journal. The journal and the identity of a replica are never moved.
//
// What is moved lies in the directory damaged of the data directory, in one directory for each time that something was
// moved, whose name begins with the time (UTC) and ends with what it is:
//
//	damaged/20261128T015359.123Z-tsdb/wal
//
// The last [Kept] of each kind are kept, so that a fault that comes back at each start does not fill the disk. All of
// damaged/ may be deleted at any time.
package aside

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Dir is the name of the directory in the data directory.
const Dir = "damaged"

// Kept is how many directories of one kind are kept.
const Kept = 3

// layout is how the name of a directory begins. Such names sort by time.
const layout = "20060102T150405.000Z"

// What can be moved: the values of the label of the metric.
const (
	TSDB        = "tsdb"
	Backfill    = "backfill"
	RemoteWrite = "remote-write"
	QuietTimes  = "quiet-times"
	Database    = "database"
)

// Shelf is where files are moved to. It is safe for concurrent use as long as no two calls move the same file.
type Shelf struct {
	dir   string
	log   *slog.Logger
	moved *prometheus.CounterVec
}

// New returns the shelf of a data directory.
func New(dataDir string, log *slog.Logger, reg prometheus.Registerer) (*Shelf, error) {
	s := &Shelf{
		dir: filepath.Join(dataDir, Dir), log: log.With("component", "set aside"),
		moved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usaged_set_aside_total",
			Help: "Times that damaged files were moved into the directory damaged of the data directory since the start, by what was in them. The daemon goes on without it.",
		}, []string{"what"}),
	}
	for _, what := range []string{TSDB, Backfill, RemoteWrite, QuietTimes, Database} {
		s.moved.WithLabelValues(what)
	}
	if err := reg.Register(s.moved); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return s, nil
}

// Move moves files or directories that cannot be used, because of why. Paths that do not exist are passed over. On an error some
// may have been moved.
func (s *Shelf) Move(what string, why error, paths ...string) error {
	paths = slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		_, err := os.Lstat(path)
		return os.IsNotExist(err)
	})
	if len(paths) == 0 {
		return nil
	}
	to, err := s.make(what)
	if err != nil {
		return fmt.Errorf("set damaged files aside: %w: make the data directory writable, or move %s away", err, strings.Join(paths, ", "))
	}
	for _, path := range paths {
		if err := os.Rename(path, filepath.Join(to, filepath.Base(path))); err != nil {
			return fmt.Errorf("set damaged files aside: %w: move %s away and start again", err, path)
		}
	}
	s.moved.WithLabelValues(what).Inc()
	s.log.Error("damaged files were set aside; the daemon goes on without what was in them", "what", what, "files", paths, "moved_to", to, "err", why)
	s.prune(what)
	return nil
}

// make makes the directory of one move.
func (s *Shelf) make(what string) (string, error) {
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return "", err
	}
	for at := time.Now().UTC(); ; at = at.Add(time.Millisecond) { // two moves in one millisecond
		dir := filepath.Join(s.dir, at.Format(layout)+"-"+what)
		if err := os.Mkdir(dir, 0o750); !errors.Is(err, os.ErrExist) {
			return dir, err
		}
	}
}

// prune removes all but the newest of a kind.
func (s *Shelf) prune(what string) {
	names, err := filepath.Glob(filepath.Join(s.dir, "*Z-"+what))
	if err != nil || len(names) <= Kept {
		return
	}
	slices.Sort(names)
	for _, name := range names[:len(names)-Kept] {
		if err := os.RemoveAll(name); err != nil {
			s.log.Debug("an old directory of damaged files stays", "directory", name, "err", err)
		}
	}
}
