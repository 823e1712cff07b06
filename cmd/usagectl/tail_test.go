package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tailServer answers GET events with what f gives for the query.
func tailServer(t *testing.T, f func(q map[string]string) (status int, body string)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := map[string]string{}
		for name, values := range r.URL.Query() {
			q[name] = values[0]
		}
		status, body := f(q)
		if status != http.StatusOK {
			w.Header().Set("Content-Type", "application/problem+json")
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// tailEvent is a line at a second of 12:00.
func tailEvent(second int, cursor, user string) string {
	return fmt.Sprintf(`{"cursor":%q,"accepted_at":"2026-11-23T12:00:%02dZ","token":"t","id":"i","user_id":%q,"event_type":"sql_execution",`+
		`"metadata":{"q":"a b","rows":"42","z":"\u001b[2J"},"source":"portal","created_at":"2026-11-23T12:00:00Z"}`+"\n", cursor, second, user)
}

const tailEnd = `{"cursor":"end","end":true}` + "\n"

func TestTailForPeople(t *testing.T) {
	t.Parallel()
	url := tailServer(t, func(q map[string]string) (int, string) {
		if q["since"] != "15m" || q["after"] != "" || q["event_type"] != "sql_execution" || q["user_id"] != "ann" {
			t.Errorf("query %v", q)
		}
		return 200, "\n" + tailEvent(1, "c1", "ann") + tailEnd
	})
	tl := &tool{env: map[string]string{"USAGE_URL": url}}
	if code := tl.run(t, "tail", "--type=sql_execution", "--user=ann"); code != exitOK {
		t.Fatalf("exit %d: %s", code, &tl.stderr)
	}
	want := "2026-11-23T12:00:01.000Z  sql_execution         ann               q=\"a b\"  rows=42  z=\uFFFD[2J  from portal\n"
	if got := tl.stdout.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	tl.run(t, "tail", "--type=sql_execution", "--user=ann", "--color=always")
	if got := tl.stdout.String(); strings.Count(got, "\x1b[0m") < 5 || strings.Contains(got, "\x1b[2J") {
		t.Errorf("in colour: %q", got)
	}
}

func TestTailMergesReplicas(t *testing.T) {
	t.Parallel()
	serve := func(lines ...string) string {
		return tailServer(t, func(map[string]string) (int, string) { return 200, strings.Join(lines, "") + tailEnd })
	}
	one := serve(tailEvent(1, "a1", "u1"), tailEvent(4, "a2", "u4"), tailEvent(5, "a3", "u5"))
	two := serve(`{"cursor":"p","missing":3}`+"\n", tailEvent(2, "b1", "u2"), tailEvent(3, "b2", "u3"))
	cursors := filepath.Join(t.TempDir(), "cursors")
	tl := &tool{env: map[string]string{"USAGE_TOKEN": "x"}}
	if code := tl.run(t, "tail", "--url="+one, "--url="+two, "--cursor-file="+cursors, "--output=json"); code != exitOK {
		t.Fatalf("exit %d: %s", code, &tl.stderr)
	}
	want := tailEvent(1, "a1", "u1") + tailEvent(2, "b1", "u2") + tailEvent(3, "b2", "u3") + tailEvent(4, "a2", "u4") + tailEvent(5, "a3", "u5")
	if got := tl.stdout.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !strings.Contains(tl.stderr.String(), "3 events damaged") {
		t.Errorf("stderr %q", &tl.stderr)
	}
	data, err := os.ReadFile(cursors)
	if err != nil || strings.Count(string(data), `"end"`) != 2 {
		t.Errorf("cursor file %s, %v", data, err)
	}
}

// TestTailCursors holds where a tail begins, and that a cursor that leads nowhere is an error that says so.
func TestTailCursors(t *testing.T) {
	t.Parallel()
	var asked []string
	url := tailServer(t, func(q map[string]string) (int, string) {
		asked = append(asked, q["after"]+" "+q["since"])
		if q["after"] == "old" {
			return 410, `{"type":"about:blank","title":"Gone","status":410,"detail":"begin anew with since=","code":"cursor_gone"}`
		}
		return 200, tailEvent(len(asked), fmt.Sprintf("c%d", len(asked)), "ann")
	})
	cursors := filepath.Join(t.TempDir(), "cursors")
	tl := &tool{env: map[string]string{"USAGE_URL": url}}
	for _, args := range [][]string{
		{"--limit=1"}, {"--limit=1", "--since=2h"}, {"--limit=1", "--after=c"}, {"--limit=1", "--cursor-file=" + cursors},
		{"--limit=1", "--cursor-file=" + cursors}, {"--limit=2", "--since=1h", "--cursor-file=" + cursors},
	} {
		if code := tl.run(t, append([]string{"tail"}, args...)...); code != exitOK {
			t.Errorf("%v: exit %d: %s", args, code, &tl.stderr)
		}
	}
	// The last one asks twice, since the first answer ends before the limit and without saying that it is the end.
	if got, want := strings.Join(asked, ";"), " 15m; 2h;c ; ;c4 ;c5 ;c6 "; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
	if code := tl.run(t, "tail", "--after=old"); code != exitFailure || !strings.Contains(tl.stderr.String(), "begin anew with since=") {
		t.Errorf("gone: exit %d: %s", code, &tl.stderr)
	}
	if err := os.WriteFile(cursors, []byte("c1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--cursor-file=" + cursors}, {"--after=c", "--since=1h"}, {"--after=c", "--cursor-file=x"}, {"--limit=-1"},
		{"--after=c", "--url=" + url, "--url=" + url},
	} {
		if code := tl.run(t, append([]string{"tail"}, args...)...); code == exitOK {
			t.Errorf("%v: exit 0", args)
		}
	}
}
