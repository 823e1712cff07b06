// Package durable writes small files so that a crash leaves either the old content or the new, never a part of either.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile replaces path with data: temporary file beside it, fsync, rename, fsync of the directory. When it returns nil
// the content survives a power cut. On an error the old content is still there. The temporary file is path with ".tmp"
// behind it, so a crash leaves at most one, which the next call writes over; the caller sees to it that no two write the
// same path at once.
func WriteFile(path string, data []byte, perm os.FileMode) (err error) {
	tmp, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreClosed(tmp.Close()), os.Remove(tmp.Name()))
		}
	}()
	if err := tmp.Chmod(perm); err != nil { // it may be one that was left, and the umask doesn't count
		return err
	}
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", tmp.Name(), err)
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// SyncDir makes the names in a directory durable: files created, renamed or removed in it before the call.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", dir, err), d.Close())
	}
	return d.Close()
}
