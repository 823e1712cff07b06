package main

import (
	"encoding/json"
	"testing"
)

// TestSimulate counts what simulate says that it sent, once, however often it is sent.
func TestSimulate(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	type report struct {
		Events int               `json:"events"`
		Types  map[string]uint64 `json:"event_types"`
	}
	simulate := func(args ...string) (r report) {
		t.Helper()
		out := d.usagectl(append([]string{"simulate", "--wait", "--output=json"}, args...)...)
		if out.code != 0 {
			t.Fatalf("exit code %d: %s", out.code, out.stderr)
		}
		if err := json.Unmarshal([]byte(out.stdout), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := simulate("--days=14", "--events-per-day=300")
	l := d.ledger()
	if l.All.Pending != 0 || l.All.Counted != uint64(first.Events) || first.Events < 2000 {
		t.Errorf("ledger %+v after %+v", l.All, first)
	}
	for name, n := range first.Types {
		if l.Types[name].Counted != n {
			t.Errorf("%s: %+v, want %d counted", name, l.Types[name], n)
		}
	}
	again := simulate("--days=14", "--events-per-day=300")
	// All of the first, or a day less where midnight has just passed.
	sent, least := uint64(first.Events+again.Events), uint64(first.Events)*8/10
	if l = d.ledger(); l.All.Accepted != sent || l.All.Counted+l.All.Duplicates != sent || l.All.Duplicates < least {
		t.Errorf("ledger %+v after %+v and %+v: want the first again as duplicates", l.All, first, again)
	}
	other := simulate("--days=14", "--events-per-day=300", "--seed=2")
	if got, want := d.ledger().All.Counted, l.All.Counted+uint64(other.Events); got != want {
		t.Errorf("%d counted after another seed, want %d", got, want)
	}
	users := 0
	for _, byUser := range d.summary(14) {
		users = max(users, len(byUser))
	}
	if users < 40 {
		t.Errorf("at most %d users sent a type, want most of 60", users)
	}
	d.stop()
}
