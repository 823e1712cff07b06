package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/event"
)

// TestOddNames counts under names that differ only in what careless code folds together.
func TestOddNames(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	names := []string{
		"ann", "Ann", "ann ", " ann", "ánn", "a\u0301nn", "ann\u0000", "ann\u0000b", "\u0000", "ann\n", "1", "01", "1.0", "1e0", "null", "'; drop table x; --",
		"a%b", "a_b", `a"b`, `a\b`, "a{p0}:day", "🙂", "🙂\u200d", "\ufeffann", "\u2028", strings.Repeat("é", 128),
	}
	want := map[string]map[string]uint64{}
	var lines []string
	add := func(eventType, user string, n int) {
		if want[eventType] == nil {
			want[eventType] = map[string]uint64{}
		}
		want[eventType][user] = uint64(n)
		line, err := json.Marshal(map[string]string{"event_type": eventType, "user_id": user})
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			lines = append(lines, string(line))
		}
	}
	for i, name := range names {
		add("users", name, i+1)
		if !strings.ContainsAny(name, "\n\u0000") && len(name) <= 128 {
			add(name, "ann", i+1)
		}
	}
	d.post(lines...)
	f := d.figures(7)
	if diff := cmp.Diff(want, f.Summary); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	types, users := count(want)
	for eventType, n := range types { // labels show what a terminal would hide
		if shown := event.Visible(eventType); shown != eventType {
			delete(types, eventType)
			types[shown] = n
		}
	}
	if diff := cmp.Diff(types, f.Counters); diff != "" {
		t.Errorf("usage_events_total (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(users, f.Users); diff != "" {
		t.Errorf("users (-want +got):\n%s", diff)
	}
	for _, name := range names {
		var s struct{ Summary map[string]map[string]uint64 }
		d.getJSON("/api/v1/usage/summary?event_type=users&user_id="+escape(name), &s)
		if got := s.Summary["users"]; len(got) != 1 || got[name] != want["users"][name] {
			t.Errorf("summary of user %q: %v, want %d", name, got, want["users"][name])
		}
	}
	d.kill()
	d.dropDatabase()
	d.start()
	same(t, "rebuilt", d.figures(7), f)
}

func escape(s string) string {
	var out strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&out, "%%%02X", s[i])
	}
	return out.String()
}

// TestManyTypes sends more event types than any of the limits: what has no room is counted under __other__ and nothing is
// lost. Every event is sent twice. A rebuild folds in larger steps, and must still give the same types room.
func TestManyTypes(t *testing.T) {
	t.Parallel()
	const n, parts = 1200, 4
	for _, tc := range []struct {
		name  string
		order []int
	}{
		{"it has room for the first types, ascending", []int{0, 1, 2, 3}},
		{"it has room for the first types, descending", []int{3, 2, 1, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newInstance(t)
			d.start()
			for _, part := range tc.order {
				var lines []string
				for i := range 2 * n / parts { // each part overlaps the next
					k := (part*n/parts + i) % n
					lines = append(lines, fmt.Sprintf(`{"id":"%d","event_type":"type %04d","user_id":"user %d"}`, k, k, k%7))
				}
				d.post(lines...)
				d.settle()
			}
			f := d.figures(7)
			if got := f.Ledger.All; got.Accepted != 2*n || got.Counted != n || got.Duplicates != n {
				t.Errorf("ledger %+v, want %d counted and as many duplicates", got, n)
			}
			checkOverflow(t, f, n)
			d.stop()
			d.start()
			same(t, "after a restart", d.figures(7), f)
			d.stop()
			d.dropDatabase()
			d.start()
			same(t, "rebuilt", d.figures(7), f)
		})
	}
}

// checkOverflow expects n events in each view, of as many types as it has room for.
func checkOverflow(t *testing.T, f *figures, n uint64) {
	t.Helper()
	types, _ := count(f.Summary)
	ledgerTypes := map[string]uint64{}
	for name, a := range f.Ledger.Types {
		ledgerTypes[name] = a.Counted
	}
	for _, view := range []struct {
		what   string
		events map[string]uint64
		types  int
	}{{"summary", types, 1000}, {"counters", f.Counters, 200}, {"ledger", ledgerTypes, 1000}} {
		sum := uint64(0)
		for _, k := range view.events {
			sum += k
		}
		if sum != n || len(view.events) > view.types+1 || view.events["__other__"] == 0 {
			t.Errorf("%s: %d events of %d types, %d of them other; want %d of at most %d and other", view.what, sum, len(view.events),
				view.events["__other__"], n, view.types)
		}
	}
}

// TestLargestBatch sends as much as one request may hold, and kills the daemon behind the answer.
func TestLargestBatch(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	const n = 10_000
	var lines []string
	for i := range n {
		line := fmt.Sprintf(`{"id":"%d","event_type":"a","user_id":"user %d","metadata":{"pad":"%x"}}`, i, i, noise(i))
		lines = append(lines, line+strings.Repeat(" ", (8<<20)/n-len(line)-1))
	}
	d.post(lines...)
	d.kill()
	d.start()
	d.post(lines...)
	f := d.figures(7)
	if got := f.Ledger.All; got.Accepted != 2*n || got.Counted != n || len(f.Summary["a"]) != n {
		t.Errorf("ledger %+v, %d users; want %d counted and as many duplicates", got, len(f.Summary["a"]), n)
	}
}

// TestIDsOverTime accepts one id again and again: it counts once within 24 hours, whatever is restarted or lost between.
func TestIDsOverTime(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	d := newInstance(t)
	d.clockAt(begin)
	d.start()
	const event = `{"id":"x","event_type":"a","user_id":"ann"}`
	d.post(event, event, `{"id":"x","event_type":"a","user_id":"bob"}`, `{"event_type":"a","user_id":"ann"}`)
	if all := d.settle().All; all.Counted != 3 || all.Duplicates != 1 {
		t.Fatalf("ledger %+v, want 3 counted and 1 duplicate", all)
	}
	counted, duplicates := uint64(3), uint64(1)
	for _, tc := range []struct {
		name      string
		after     time.Duration
		between   func()
		duplicate bool
	}{
		{"an hour later", time.Hour, d.stop, true},
		{"a day later, after SIGKILL", 23*time.Hour + 50*time.Minute, d.kill, true},
		{"a day later, without a database", 23*time.Hour + 55*time.Minute, func() { d.kill(); d.dropDatabase() }, true},
		{"three days later", 72 * time.Hour, d.stop, false},
		{"three days and an hour later, without a database", 73 * time.Hour, func() { d.stop(); d.dropDatabase() }, true},
		{"six days later, without a database", 144 * time.Hour, func() { d.stop(); d.dropDatabase() }, false},
	} {
		tc.between()
		d.clockAt(begin.Add(tc.after))
		d.start()
		d.post(event)
		if tc.duplicate {
			duplicates++
		} else {
			counted++
		}
		if all := d.settle().All; all.Counted != counted || all.Duplicates != duplicates {
			t.Errorf("%s: ledger %+v, want %d counted and %d duplicates", tc.name, all, counted, duplicates)
		}
	}
}

// TestKillFirstStart kills the daemon in its very first starts, when it makes its tokens and files.
func TestKillFirstStart(t *testing.T) {
	t.Parallel()
	n := 5
	if full() {
		n = 50
	}
	rng := rand.New(rand.NewPCG(seed(t), 1))
	for range n {
		d := newInstance(t)
		for range 1 + rng.IntN(3) {
			d.launch()
			pass(time.Duration(rng.Int64N(int64(80 * time.Millisecond))))
			d.kill()
		}
		d.start()
		d.post(`{"event_type":"a","user_id":"ann"}`)
		if got := d.figures(7).Summary["a"]["ann"]; got != 1 {
			t.Errorf("counted %d, want 1", got)
		}
		for role, want := range map[string]int{"user": 403, "producer": 403, "viewer": 403, "admin": 200} {
			if a := d.do(http.MethodGet, "/api/v1/usage/users", role, nil, nil); a.status != want {
				t.Errorf("the token of %s: status %d, want %d", role, a.status, want)
			}
		}
		d.stop()
		leftovers, err := filepath.Glob(filepath.Join(d.dir, ".*"))
		if err != nil || len(leftovers) > 0 {
			t.Errorf("left behind: %q, %v", leftovers, err)
		}
	}
}

// TestRetentionSize deletes segments before their time: counters and ledger stay, also without the database.
func TestRetentionSize(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--retention.size=64KB")
	for round := range 8 { // a segment each
		d.start()
		var lines []string
		for i := range 200 {
			lines = append(lines, fmt.Sprintf(`{"id":"%d","event_type":"type %d","user_id":"user %d","metadata":{"pad":"%x"}}`, i, round%3, round, noise(round*200+i)))
		}
		d.post(lines...)
		d.settle()
		d.stop()
	}
	d.start()
	f := d.figures(7)
	eventually(t, "segments deleted for their size", func() error {
		if segments := d.segments(); segments[0] == "00000000" {
			return fmt.Errorf("segments %q", segments)
		}
		return nil
	})
	if !strings.Contains(d.log.String(), "the journal exceeds --retention.size") {
		t.Error("no warning of events that were deleted inside the window")
	}
	same(t, "after segments were deleted", d.figures(7), f)
	d.stop()
	d.dropDatabase()
	if err := os.Remove(filepath.Join(d.dir, "counters.json")); err != nil {
		t.Fatal(err)
	}
	d.start()
	rebuilt := d.figures(7)
	same(t, "rebuilt", &figures{Ledger: rebuilt.Ledger, Counters: rebuilt.Counters}, &figures{Ledger: f.Ledger, Counters: f.Counters})
}
