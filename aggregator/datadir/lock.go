// Package datadir knows what lies in a data directory, and keeps two processes from using it at once.
package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gofrs/flock"
)

// Names of what lies in a data directory.
const (
	Journal     = "journal"
	Checkpoints = "checkpoints"
	Database    = "usage.db"
	lockFile    = "lock"
)

// ErrInUse says that another process has locked the directory.
var ErrInUse = errors.New("it is in use by another process")

// Lock is a data directory of which no other process can have one.
type Lock struct {
	file *flock.Flock
	dir  *os.File
}

// Acquire locks a data directory, which must exist. It does not wait: where another process has it the error is ErrInUse
// (errors.Is).
//
// Two locks are taken: one of the file "lock", which shows people that the directory is used, and one of the directory itself,
// which nobody can delete while it is used. The kernel gives both back when the process ends, however it ends.
func Acquire(dir string) (*Lock, error) {
	file := flock.New(filepath.Join(dir, lockFile))
	locked, err := file.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if !locked {
		return nil, fmt.Errorf("lock data directory %s: %w", dir, ErrInUse)
	}
	d, err := lockDir(dir)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Lock{file: file, dir: d}, nil
}

func lockDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("lock data directory %s: %w", dir, ErrInUse), d.Close())
	case errors.Is(err, syscall.EBADF), errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.EINVAL):
		return d, nil // a file system, such as NFS, on which directories cannot be locked: the lock of the file has to do
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock data directory %s: %w", dir, err), d.Close())
	}
	return d, nil
}

// Release gives the directory back.
func (l *Lock) Release() error { return errors.Join(l.dir.Close(), l.file.Close()) }
