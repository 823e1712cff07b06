package durable_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"usaged/aggregator/durable"
)

var format = durable.Format{Version: 2, Plain: 1}

type state struct {
	Session uint64   `json:"session"`
	IDs     []string `json:"ids"`
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.json")
	want := state{1048577, []string{"0190aa", "0190ab"}}
	if err := format.SaveJSON(path, want, 0o640); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		for bit := range 8 {
			flipped := bytes.Clone(whole)
			flipped[at] ^= 1 << bit
			overwrite(t, path, flipped)
			var got state
			if _, err := format.LoadJSON(path, &got); !errors.Is(err, durable.ErrDamaged) && !errors.Is(err, durable.ErrVersion) {
				t.Fatalf("bit %d of byte %d flipped: %+v, %v, want an error", bit, at, got, err)
			}
		}
	}
	for size := range whole {
		overwrite(t, path, whole[:size])
		var got state
		if _, err := format.LoadJSON(path, &got); !errors.Is(err, durable.ErrDamaged) {
			t.Fatalf("cut to %d bytes: %+v, %v, want an error", size, got, err)
		}
	}
}

func TestPlainFilesAreRead(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]error{
		`{"version":1,"session":7,"ids":["a"]}`: nil,
		`{"version":2,"session":7,"ids":["a"]}`: durable.ErrDamaged,
		`{"version":3,"session":7}`:             durable.ErrVersion,
		`{"session":7}`:                         durable.ErrVersion,
		`{"version":1,"session":"7"}`:           durable.ErrDamaged,
		`{"version":1,"content":{}}`:            durable.ErrDamaged,
		`{`:                                     durable.ErrDamaged,
		``:                                      durable.ErrDamaged,
	} {
		path := filepath.Join(t.TempDir(), "state.json")
		overwrite(t, path, []byte(content))
		var got state
		plain, err := format.LoadJSON(path, &got)
		if !errors.Is(err, want) || want == nil && (!plain || got.Session != 7) {
			t.Errorf("%s: %+v, plain %v, %v, want %v", content, got, plain, err, want)
		}
	}
	var got state
	if _, err := format.LoadJSON(filepath.Join(t.TempDir(), "none"), &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// A symbolic link beside the file, under the name that a temporary file could be expected to have, is not written through.
func TestTemporaryFilesFollowNoLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "state.json"), filepath.Join(dir, "victim")
	overwrite(t, victim, []byte("precious"))
	if err := os.Symlink(victim, path+".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
		t.Errorf("the file behind the link has %q, %v", got, err)
	}
	if err := durable.RemoveTemporary(dir); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left are %q, %v, want the file and the victim", left, err)
	}
	if err := durable.RemoveTemporary(filepath.Join(dir, "absent")); err != nil {
		t.Errorf("an absent directory: %v", err)
	}
}

func TestFailedWriteKeepsTheOldContent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	if err := format.SaveJSON(path, state{Session: 1}, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := format.SaveJSON(path, func() {}, 0o640); err == nil || errors.Is(err, durable.ErrUncertain) {
		t.Fatalf("what cannot be written as JSON: %v", err)
	}
	if err := durable.WriteFile(dir, []byte("x"), 0o640); err == nil || errors.Is(err, durable.ErrUncertain) {
		t.Fatalf("a directory replaced by a file: %v", err)
	}
	var got state
	if _, err := format.LoadJSON(path, &got); err != nil || got.Session != 1 {
		t.Errorf("%+v, %v, want the old content", got, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("temporary files %q are left, %v", left, err)
	}
}

func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o640); err != nil {
		t.Fatal(err)
	}
}
