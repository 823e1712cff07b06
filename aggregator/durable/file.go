// Package durable keeps small files so that a crash leaves either the old content or the new, never a part of either.
//
// [WriteFile] replaces a file of any content. State files, which only this program writes, are kept by a [Format]: a version
// and a checksum stand before the content, so that a file that rotted, or was cut short, is an error and never a wrong
// number:
//
//	{"version":2,"checksum":"1c291ca3","content":{
//	  "session": 1048576
//	}}
//
// The checksum is the CRC-32C of the version (8 bytes, big endian) and of the bytes of the content.
//
// The functions may be called from several goroutines at once, but no two may write the same path at the same time.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrUncertain says that the new content is in place but may not survive a power cut, after which the file holds either the
// new content or the old. On every other error the old content is still there.
var ErrUncertain = errors.New("the new content is written, but a power cut may bring the old one back")

// temporarySuffix ends the names of unfinished files.
const temporarySuffix = ".tmp"

// WriteFile replaces path with data: temporary file beside it, fsync, rename, fsync of the directory. When it returns nil
// the content survives a power cut. An error that is not [ErrUncertain] means that the old content is still there.
//
// The temporary file is new (O_EXCL) under a name that nobody can foresee, so a symbolic link that somebody has put
// there is not followed. A crash may leave it behind; [RemoveTemporary] removes it.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return write(path, perm, func(*os.File) ([]byte, error) { return data, nil })
}

// write replaces path with what content returns for the new file.
func write(path string, perm os.FileMode, content func(*os.File) ([]byte, error)) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+temporarySuffix)
	if err != nil {
		return err
	}
	if err := fill(tmp, perm, content); err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return nil
}

// fill writes a file and closes it. The mode is set whatever the umask is.
func fill(f *os.File, perm os.FileMode, content func(*os.File) ([]byte, error)) (err error) {
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := content(f)
	if err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", f.Name(), err)
	}
	return nil
}

// RemoveTemporary removes what crashes have left of unfinished files in a directory, which may be absent. Nobody may be
// writing there.
func RemoveTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), temporarySuffix) || e.IsDir() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
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
