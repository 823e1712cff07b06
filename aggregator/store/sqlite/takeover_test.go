package sqlite_test

import (
	"path/filepath"
	"testing"

	"usaged/aggregator/store"
)

// A daemon that takes over again and again and applies nothing leaves one row.
func TestTakeoversWithoutProgressLeaveOneRow(t *testing.T) {
	t.Parallel()
	cfg := config(t, 1)
	s := open(t, cfg)
	mustApply(t, s, &store.Batch{Producer: "p", Session: 1, Prev: 0, Last: 5})
	for session := uint64(2); session < 50; session++ {
		mustApply(t, s, &store.Batch{Producer: "p", Session: session, Prev: 5, Last: 5})
	}
	db, rows := shell(t, cfg.Path), 0
	if err := db.QueryRow("SELECT count(*) FROM takeover WHERE producer = 'p'").Scan(&rows); err != nil || rows != 2 {
		t.Errorf("%s has %d rows of takeovers, %v; want 2", filepath.Base(cfg.Path), rows, err)
	}
}
