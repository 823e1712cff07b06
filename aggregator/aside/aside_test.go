package aside_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/aside"
)

// TestMove sets a file aside more often than directories are kept.
func TestMove(t *testing.T) {
	t.Parallel()
	dir, registry := t.TempDir(), prometheus.NewRegistry()
	shelf, err := aside.New(dir, slog.New(slog.NewTextHandler(t.Output(), nil)), registry)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "quiet.json")
	want := ""
	for i := range aside.Kept + 2 {
		want = string(rune('a' + i))
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := shelf.Move(aside.QuietTimes, errors.New("it is damaged"), path, filepath.Join(dir, "absent")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file is still there: %v", err)
		}
	}
	files := moved(t, dir)
	if len(files) > aside.Kept {
		t.Errorf("%d directories are kept, want at most %d", len(files), aside.Kept)
	}
	if got, err := os.ReadFile(filepath.Join(files[len(files)-1], "quiet.json")); err != nil || string(got) != want {
		t.Errorf("the last file set aside has %q, %v; want %q", got, err, want)
	}
	if n := count(t, registry, aside.QuietTimes); n != aside.Kept+2 {
		t.Errorf("%v files were counted, want %d", n, aside.Kept+2)
	}
	if err := shelf.Move(aside.TSDB, nil, filepath.Join(dir, "absent")); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
}

func moved(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, aside.Dir, "*-"+aside.QuietTimes))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// count returns how often something was set aside, as the metric has it.
func count(t *testing.T, registry *prometheus.Registry, what string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "usaged_set_aside_total" && m.GetLabel()[0].GetValue() == what {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}
