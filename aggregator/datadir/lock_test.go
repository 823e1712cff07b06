package datadir_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"usaged/aggregator/datadir"
)

// The file of the lock is deleted while the directory is in use, as by somebody who takes it for stale.
func TestDeletedLockStillLocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock, err := datadir.Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"with the file", "without the file"} {
		if second, err := datadir.Acquire(dir); !errors.Is(err, datadir.ErrInUse) {
			t.Fatalf("a second lock %s: %v, %v, want ErrInUse", what, second, err)
		}
		if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
			t.Fatal(err)
		}
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	lock, err = datadir.Acquire(dir)
	if err != nil {
		t.Fatalf("lock after it was given back: %v", err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
}
