package faultfs_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"usaged/tools/faults/faultfs"
)

// mount returns a mounted directory and where its files really are.
func mount(t *testing.T) (f *faultfs.FS, dir, backing string) {
	t.Helper()
	dir, backing = t.TempDir(), t.TempDir()
	f, err := faultfs.Mount(backing, dir)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("%v: FUSE needs root, or fusermount3 (Debian: apt-get install fuse3)", err)
	}
	t.Cleanup(func() {
		if err := f.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return f, dir, backing
}

func TestRules(t *testing.T) {
	t.Parallel()
	f, dir, _ := mount(t)
	try := func(name string) error {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		return file.Close()
	}
	for _, tc := range []struct {
		name    string
		lasting bool
		want    []bool // which calls fail
	}{
		{"it lets one call fail", false, []bool{false, true, false, false}},
		{"it lets all calls fail from one on", true, []bool{false, true, true, true}},
	} {
		f.Fail(faultfs.Rule{Kind: faultfs.Create, N: 2, Lasting: tc.lasting, Errno: syscall.ENOSPC})
		for i, want := range tc.want {
			if err := try(tc.name + string(rune('a'+i))); errors.Is(err, syscall.ENOSPC) != want {
				t.Errorf("%s: call %d: %v, want an error: %v", tc.name, i+1, err, want)
			}
		}
		f.Heal()
		if err := try(tc.name + " healed"); err != nil {
			t.Errorf("%s: after Heal: %v", tc.name, err)
		}
	}
}

// TestState makes many states of one recording: what was synced is in each, what was not is in some and missing in some.
func TestState(t *testing.T) {
	t.Parallel()
	f, dir, _ := mount(t)
	f.Record()
	write := func(name string, sync bool) {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteString(name); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := file.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("new", true)
	if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "synced")); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	write("loose", false)
	ops := f.Recorded()
	seen := map[string]int{}
	const states = 100
	for seed := range uint64(states) {
		dst := t.TempDir()
		if err := faultfs.State(ops, rand.New(rand.NewPCG(seed, 0)), dst); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"synced", "loose"} {
			data, err := os.ReadFile(filepath.Join(dst, name))
			switch {
			case err != nil:
				seen[name+" missing"]++
			case len(data) == 0:
				seen[name+" empty"]++
			default:
				seen[name]++
			}
		}
	}
	if seen["synced"]+seen["synced missing"] != states || seen["synced missing"] > 0 {
		t.Errorf("what was synced was not in every state: %v", seen)
	}
	for _, what := range []string{"loose", "loose missing", "loose empty"} {
		if seen[what] == 0 {
			t.Errorf("no state of %d has %q: %v", states, what, seen)
		}
	}
}
