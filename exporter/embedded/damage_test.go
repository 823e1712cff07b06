package embedded_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"usaged/aggregator/aside"
)

// damages are what may happen to a file or a directory.
var damages = map[string]func(path string) error{
	"garbage": func(path string) error {
		data, err := os.ReadFile(path)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		return errors.Join(err, os.WriteFile(path, append(data, "and more"...), 0o600))
	},
	"emptied":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
	"cut short": func(path string) error { return halve(path) },
	"removed":   os.RemoveAll,
	"a directory in its place": func(path string) error {
		return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700))
	},
	"a file in its place": func(path string) error {
		return errors.Join(os.RemoveAll(path), os.WriteFile(path, []byte("not a directory"), 0o600))
	},
}

func halve(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()/2)
}

// history leaves a TSDB with a block, a checkpoint, a log, and chunks of its head.
func history(t *testing.T, dir string) {
	t.Helper()
	opts := tsdb.DefaultOptions()
	opts.NoLockfile, opts.WALSegmentSize = true, 32<<10
	db, err := tsdb.Open(dir, slog.New(slog.DiscardHandler), nil, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(2 * time.Hour)
	for at := now.Add(-8 * time.Hour); at.Before(now); at = at.Add(20 * time.Second) {
		app := db.AppenderV2(t.Context())
		for i := range 5 {
			ls := labels.FromStrings("__name__", "old", "i", fmt.Sprint(i))
			if _, err := app.Append(0, ls, 0, at.UnixMilli(), rand.Float64(), nil, nil, storage.AOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(db.Compact(t.Context()), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedFiles damages every file and every directory of a TSDB in every way. The Prometheus opens, with what is left or afresh,
// scrapes, and opens again.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	history(t, whole)
	var parts []string
	err := filepath.WalkDir(whole, func(path string, _ fs.DirEntry, err error) error {
		parts = append(parts, path[len(whole):])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"/meta.json", "/index", "/chunks", "/wal/checkpoint", "/chunks_head"} {
		if !strings.Contains(strings.Join(parts, "\n"), kind) {
			t.Fatalf("the history has no %s: %q", kind, parts)
		}
	}
	for _, part := range parts {
		for name, damage := range damages {
			t.Run(name+part, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, fast)
				if err := os.CopyFS(r.cfg.Dir, os.DirFS(whole)); err != nil {
					t.Fatal(err)
				}
				if err := damage(r.cfg.Dir + part); err != nil {
					t.Skipf("not for this: %v", err)
				}
				for range 2 {
					r.shelve()
					r.start()
					r.events.Add(7)
					r.becomes("usage_events_total", "7")
					r.stop(r.prom)
				}
			})
		}
	}
}

// shelve gives a Prometheus a place for damaged files, and a registry of its own for the metrics about it.
func (r *rig) shelve() {
	r.t.Helper()
	var err error
	if r.cfg.Damaged, err = aside.New(filepath.Dir(r.cfg.Dir), r.cfg.Log, prometheus.NewRegistry()); err != nil {
		r.t.Fatal(err)
	}
}

// TestABlockWithoutItsIndexIsSetAside keeps the block, in damaged, and everything else where it was.
func TestABlockWithoutItsIndexIsSetAside(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	history(t, r.cfg.Dir)
	blocks, err := filepath.Glob(filepath.Join(r.cfg.Dir, "01*"))
	if err != nil || len(blocks) < 2 {
		t.Fatalf("the history has the blocks %q, %v; want two", blocks, err)
	}
	if err := damages["garbage"](filepath.Join(blocks[0], "index")); err != nil {
		t.Fatal(err)
	}
	r.shelve()
	r.start()
	if !r.prom.Repaired() {
		t.Error("it does not say that samples were set aside")
	}
	moved, err := filepath.Glob(filepath.Join(filepath.Dir(r.cfg.Dir), aside.Dir, "*-tsdb", "*"))
	if err != nil || len(moved) != 1 || filepath.Base(moved[0]) != filepath.Base(blocks[0]) {
		t.Errorf("set aside are %q, %v; want %s", moved, err, blocks[0])
	}
	for _, block := range blocks[1:] {
		if _, err := os.Stat(block); err != nil {
			t.Errorf("another block is gone: %v", err)
		}
	}
}

// TestADirectoryThatCannotBeMade waits where nothing could be set aside, and opens once it can.
func TestADirectoryThatCannotBeMade(t *testing.T) {
	t.Parallel()
	r := newRig(t, fast)
	// A name that leads nowhere is an error of the directory above, which setting the TSDB aside does not cure.
	parent := filepath.Join(filepath.Dir(r.cfg.Dir), "mount")
	r.write(parent, "not mounted yet")
	r.cfg.Dir = filepath.Join(parent, "tsdb")
	prom := r.open()
	eventually(t, "a failed attempt", func() error {
		if n := r.counter("usaged_prometheus_open_failures_total"); n == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	if err := prom.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.events.Add(7)
	r.becomes("usage_events_total", "7")
}

// counter returns the value of the first series of a counter.
func (r *rig) counter(name string) float64 {
	r.t.Helper()
	return r.counterOf(name, "")
}

// counterOf returns the value of the series of a counter with the value of its first label, or of the first series.
func (r *rig) counterOf(name, label string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue()
			}
		}
	}
	r.t.Fatalf("no %s", name)
	return 0
}
