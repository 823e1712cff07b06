package accept_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"usaged/rules/accept"
)

// clock is a time that a test sets.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func open(t *testing.T, path string, c *clock) *accept.Normals {
	t.Helper()
	n, err := accept.Open(accept.Config{Path: path, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func want(t *testing.T, n *accept.Normals, ratios ...string) {
	t.Helper()
	text := ""
	if len(ratios) > 0 {
		text = "# HELP usaged_accepted_activity_ratio The part of what was expected of an event type that an operator has accepted as the new normal.\n" +
			"# TYPE usaged_accepted_activity_ratio gauge\n" + strings.Join(ratios, "\n") + "\n"
	}
	if err := testutil.CollectAndCompare(n, strings.NewReader(text), "usaged_accepted_activity_ratio"); err != nil {
		t.Error(err)
	}
}

// TestAccept has what is accepted exported, after a restart too, for as long as the rules look back; a second time it is of the first.
func TestAccept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "accepted.json")
	c := &clock{time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)}
	n := open(t, path, c)
	want(t, n)
	made, err := n.Accept(accept.Normal{EventType: "a", Ratio: 0.5, By: "ops", Reason: "moved"})
	if err != nil || !made.At.Equal(c.now) {
		t.Fatalf("%+v, %v; want it accepted now", made, err)
	}
	if n = open(t, path, c); true {
		want(t, n, `usaged_accepted_activity_ratio{event_type="a"} 0.5`)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), `"by": "ops"`) || !strings.Contains(string(text), "moved") {
		t.Errorf("the file has %s, %v; want who and why", text, err)
	}
	c.now = c.now.Add(24 * time.Hour)
	for _, name := range []string{"a", "b"} {
		if _, err := n.Accept(accept.Normal{EventType: name, Ratio: 0.5}); err != nil {
			t.Fatal(err)
		}
	}
	want(t, n, `usaged_accepted_activity_ratio{event_type="a"} 0.25`, `usaged_accepted_activity_ratio{event_type="b"} 0.5`)
	c.now = c.now.Add(30 * 24 * time.Hour)
	want(t, n)
}

func TestOpenRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "accepted.json")
	if err := os.WriteFile(path, []byte(`{"version": 9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := accept.Open(accept.Config{Path: path, Now: time.Now}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("another version: %v, want an error that names the file", err)
	}
}
