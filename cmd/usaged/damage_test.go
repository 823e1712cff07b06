package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// copyDir returns a copy of a data directory.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// postUsers posts one event of each of n users, in one request each, and returns the sizes of the segment after each.
func postUsers(d *instance, segment string, n int) (sizes []int64) {
	d.tb.Helper()
	for i := range n {
		d.post(fmt.Sprintf(`{"id":"1","event_type":"a","user_id":"user %d"}`, i))
		info, err := os.Stat(segment)
		if err != nil {
			d.tb.Fatal(err)
		}
		sizes = append(sizes, info.Size())
	}
	return sizes
}

// firstUsers is the summary of the first n users of postUsers.
func firstUsers(n int) map[string]map[string]uint64 {
	users := map[string]uint64{}
	for i := range n {
		users[fmt.Sprintf("user %d", i)] = 1
	}
	return map[string]map[string]uint64{"a": users}
}

// TestTornTail cuts the last record of a daemon that was killed, at several of its bytes. What was acknowledged before it is
// counted, and the daemon goes on.
func TestTornTail(t *testing.T) {
	t.Parallel()
	const n = 5
	d := newInstance(t)
	d.start()
	segment := filepath.Join(d.dir, "journal", "00000000")
	sizes := postUsers(d, segment, n)
	d.settle()
	d.kill()
	d.dropDatabase() // it has what only a crash before the acknowledgement could tear
	begin, end := sizes[n-2], sizes[n-1]
	cuts := []int64{begin, begin + 1, begin + 6, begin + 7, begin + 8, (begin + end) / 2, end - 2, end - 1}
	if full() {
		cuts = nil
		for at := begin; at < end; at++ {
			cuts = append(cuts, at)
		}
	}
	for _, at := range cuts {
		t.Run(fmt.Sprintf("it opens when cut %d bytes behind the record before", at-begin), func(t *testing.T) {
			t.Parallel()
			torn := instanceIn(t, copyDir(t, d.dir))
			if err := os.Truncate(filepath.Join(torn.dir, "journal", "00000000"), at); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(torn.dir, "counters.json")); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			torn.start()
			f := torn.figures(7)
			same(t, "behind the cut", &figures{Summary: f.Summary}, &figures{Summary: firstUsers(n - 1)})
			torn.post(fmt.Sprintf(`{"id":"1","event_type":"a","user_id":"user %d"}`, n-1))
			f = torn.figures(7)
			same(t, "sent again", &figures{Summary: f.Summary}, &figures{Summary: firstUsers(n)})
			if got := f.Ledger.All; got.Accepted != n || got.Counted != n {
				t.Errorf("ledger %+v, want %d accepted and counted", got, n)
			}
			torn.stop()
		})
	}
}

// flip damages one byte of a file.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0x40
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDamage flips a byte in the middle of a segment: the daemon refuses to start and says what to do, and after a repair
// the lost events are in the ledger.
func TestDamage(t *testing.T) {
	t.Parallel()
	const n, hit = 6, 3 // the record that is hit
	for _, tc := range []struct {
		name    string
		rebuild bool
		counted uint64
		damaged uint64
	}{
		{"it counts lost events as damaged where they were never counted", true, n - 1, 1},
		{"it still has the count of lost events that were counted", false, n, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newInstance(t)
			d.start()
			segment := filepath.Join(d.dir, "journal", "00000000")
			sizes := postUsers(d, segment, n)
			d.settle()
			counters := d.counters()
			d.kill()
			if tc.rebuild {
				d.dropDatabase()
			}
			flip(t, segment, (sizes[hit-1]+sizes[hit])/2)
			checkRefused(t, runDaemon(t, nil, d.args...), "00000000", "damaged", "usagectl journal repair "+filepath.Join(d.dir, "journal"))
			if r := d.usagectl("journal", "cat", d.dir); r.code != 1 || !strings.Contains(r.stderr, "journal repair") {
				t.Errorf("journal cat of a damaged journal: exit code %d, %q", r.code, r.stderr)
			}
			if r := d.usagectl("journal", "repair", d.dir); r.code != 0 || !strings.Contains(r.stdout, "1 lost") {
				t.Fatalf("journal repair: exit code %d, %s%s", r.code, r.stdout, r.stderr)
			}
			d.start()
			all := d.settle().All
			if all.Accepted != n || all.Counted != tc.counted || all.Damaged != tc.damaged {
				t.Errorf("ledger %+v, want %d accepted, %d counted, %d damaged", all, n, tc.counted, tc.damaged)
			}
			if got := d.counters()["a"]; got < counters["a"] {
				t.Errorf("usage_events_total fell from %d to %d", counters["a"], got)
			}
			d.post(`{"event_type":"a","user_id":"another"}`)
			d.settle()
			d.stop()
			d.start()
			if again := d.settle().All; again.Accepted != n+1 || again.Damaged != tc.damaged {
				t.Errorf("ledger after a restart %+v, want %d accepted, %d damaged", again, n+1, tc.damaged)
			}
			d.stop()
		})
	}
}

// checkRefused expects exit code 1 and one line that says all of the words.
func checkRefused(t testing.TB, r result, words ...string) {
	t.Helper()
	checkExit(t, r, 1, words...)
}

// checkExit expects an exit code and one line of error that says all of the words. Lines of the log don't count, unless
// they are errors.
func checkExit(t testing.TB, r result, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d:\n%s", r.code, code, r.stderr)
	}
	var lines []string
	for line := range strings.Lines(r.stderr) {
		if !strings.Contains(line, "level=INFO") && !strings.Contains(line, "level=WARN") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "usaged: ") {
		t.Fatalf("%d lines of error, want one that begins with usaged::\n%s", len(lines), r.stderr)
	}
	for _, word := range words {
		if !strings.Contains(lines[0], word) {
			t.Errorf("error %q, want %q in it", lines[0], word)
		}
	}
}

// TestSecondDaemon starts a second daemon on the data directory of the first.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	d.post(`{"event_type":"a","user_id":"ann"}`)
	before := d.figures(7)
	checkRefused(t, runDaemon(t, nil, d.args...), d.dir, "in use by another usaged", "--data.dir")
	if r := d.usagectl("journal", "repair", d.dir); r.code != 1 || !strings.Contains(r.stderr, "stop it") {
		t.Errorf("journal repair beside a daemon: exit code %d, %q; want 1", r.code, r.stderr)
	}
	same(t, "after the second was refused", d.figures(7), before)
	d.post(`{"event_type":"a","user_id":"ann"}`)
	if got := d.summary(7)["a"]["ann"]; d.settle().All.Counted != 2 && got != 2 {
		t.Errorf("counted %d, want 2", got)
	}
	if _, err := os.Stat(d.urlFile()); err != nil {
		t.Errorf("the second daemon took the address of the first away: %v", err)
	}
	d.stop()
}
