package remotewrite_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// cursors changes the cursor files in a directory.
func cursors(t *testing.T, dir string, change func(cursor int64) int64) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("cursor files: %v, %v", paths, err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			Remote string `json:"remote"`
			Cursor int64  `json:"cursor"`
		}
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatal(err)
		}
		file.Cursor = change(file.Cursor)
		if data, err = json.Marshal(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
