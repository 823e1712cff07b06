package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
)

// idFile holds the id as text and a newline. wlog ignores names that are not numbers.
const idFile = "producer.id"

// loadID returns the id kept in dir, and makes the directory and the id where they are absent. Without the file a
// journal that has segments gets a new id too: its old records keep the old one.
func loadID(dir string) (uuid.UUID, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil { // start makes it durable
		return uuid.Nil, fmt.Errorf("make directory: %w", err)
	}
	path := filepath.Join(dir, idFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeID(path)
	}
	if err != nil {
		return uuid.Nil, readError(path, err)
	}
	id, err := uuid.ParseBytes(bytes.TrimSpace(text))
	if err != nil {
		return uuid.Nil, fmt.Errorf("read producer id in %s: %w", path, err)
	}
	return id, nil
}

func makeID(path string) (uuid.UUID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make producer id: %w", err)
	}
	if err := writeFile(path, []byte(id.String()+"\n")); err != nil {
		return uuid.Nil, fmt.Errorf("write producer id: %w", err)
	}
	return id, nil
}

// makeDir makes a directory and its entry in the parent durable.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

// writeFile replaces a file. It is durable on return, and after a crash the file is either as before or as wanted.
func writeFile(path string, data []byte) error {
	temp := path + ".tmp"
	if err := writeSynced(temp, data); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
