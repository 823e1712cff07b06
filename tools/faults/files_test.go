package faults

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"usaged/aggregator/store/redis/redistest"
)

// sample is a data directory that was worked with and is stopped, what was sent to it, and where it counts into Redis what that
// had saved.
type sample struct {
	dir    string
	dump   string
	tokens map[string]string
	book   *book
	files  []string
	bytes  map[string]int64
}

// makeSample makes one: events of several types, duplicates, a restart, and a kill, behind which the database has its log.
func makeSample(t *testing.T, store string) any {
	t.Helper()
	tr := &trial{T: t, store: store, rng: newRand(*seedFlag)}
	s := &sample{dir: filepath.Join(t.TempDir(), "data"), book: &book{}, bytes: map[string]int64{}}
	d := tr.newDaemon(s.dir)
	for range 2 {
		if err := d.start(); err != nil {
			t.Fatalf("%v: %s", err, d.log)
		}
		d.send(tr, s.book, 12)
		if _, err := d.settled(); err != nil {
			t.Fatal(err)
		}
		if tr.rng.IntN(2) == 0 {
			if err := d.stop(); err != nil {
				t.Fatal(err)
			}
		}
		d.kill()
	}
	s.tokens = d.tokens
	if tr.redis != nil {
		tr.redis.Do("SAVE")
		s.dump = filepath.Join(tr.redis.Dir, "dump.rdb")
	}
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		s.files = append(s.files, name)
		s.bytes[name] = info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// copySample returns a daemon on a copy of the sample, with a copy of what Redis had saved.
func (tr *trial) copySample() (*sample, *daemon) {
	tr.Helper()
	s := tr.shared.(*sample)
	dir := filepath.Join(tr.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(s.dir)); err != nil {
		tr.Fatal(err)
	}
	if s.dump != "" {
		tr.redis = redistest.Start(tr.T)
		tr.redis.Kill()
		data, err := os.ReadFile(s.dump)
		if err != nil {
			tr.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tr.redis.Dir, "dump.rdb"), data, 0o600); err != nil {
			tr.Fatal(err)
		}
		tr.redis.Restart()
	}
	d := tr.newDaemon(dir)
	d.tokens, d.destroyed = s.tokens, true
	return s, d
}

// goOn examines a daemon on a directory that was changed, and, where it works, whether it goes on: what is sent now is counted
// too, and still is behind a restart.
func (tr *trial) goOn(d *daemon, b *book) verdict {
	v := d.examine(b)
	if v.outcome == refused || !v.outcome.right() {
		return v
	}
	d.send(tr, b, 3)
	if err := d.stop(); err != nil {
		return verdict{stuck, err.Error()}
	}
	if again := d.examine(b); !again.outcome.right() || again.outcome == refused {
		again.detail = "after more events and a restart: " + again.detail
		return again
	}
	return v
}

// flips changes one bit of one file. With enough trials each byte of each file has its turn.
func flips(tr *trial) verdict {
	s, d := tr.copySample()
	var files []string
	for _, f := range s.files {
		if s.bytes[f] > 0 {
			files = append(files, f)
		}
	}
	turn := int(tr.seed)
	name := files[turn%len(files)]
	path := filepath.Join(d.dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		tr.Fatal(err)
	}
	at, bit := spread(turn/len(files), len(data)), tr.rng.IntN(8)
	tr.label = fmt.Sprintf("bit %d of byte %d of %s", bit, at, name)
	data[at] ^= 1 << bit
	d.harmed = filepath.Base(name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tr.Fatal(err)
	}
	return tr.goOn(d, s.book.copy())
}

// deletions removes one file, or one directory.
func deletions(tr *trial) verdict {
	s, d := tr.copySample()
	targets := append([]string{"journal", "tsdb"}, s.files...)
	name := targets[int(tr.seed)%len(targets)]
	tr.label, d.harmed = "without "+name, filepath.Base(name)
	if err := os.RemoveAll(filepath.Join(d.dir, name)); err != nil {
		tr.Fatal(err)
	}
	return tr.goOn(d, s.book.copy())
}
