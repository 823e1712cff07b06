package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// healthAnswer is an answer of the daemon's, of which a part is for each test to choose.
const healthAnswer = `{"mode":"MODE","score":SCORE,"since":"2026-11-23T09:57:30Z","reason":null,"text":"Lowered by activity.","components":{
"activity":{"weight":0.4,"value":0.5086,"unit":"events","window":"15m","observed":412,"expected":960,"band":{"lower":810,"upper":1110},"reason":null,
 "text":"412 events in the last 15 minutes; 960 were expected (810 to 1,110), so this is too few."},
"policy":{"weight":0.15,"value":null,"unit":"ratio","window":"15m","observed":null,"expected":null,"band":null,"reason":null,"text":"No policy was ever hit."}},
"evaluated_at":"2026-11-23T11:59:40.123Z","event_types":{
"b\u001b[2J":{"mode":"unknown","score":null,"since":null,"reason":"weeks","text":"Not yet.","components":{}},
"a":{"mode":"normal","score":100,"since":"2026-11-20T12:00:00Z","reason":null,"text":"All is as usual.","components":{}}}}
`

// answering is a daemon that answers every request alike.
func answering(t *testing.T, status int, text string) *tool {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(server.Close)
	return &tool{env: map[string]string{"USAGE_URL": server.URL, "USAGE_TOKEN": fakeAdmin}}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		mode, score string
		code        int
	}{{"normal", "97.3", exitOK}, {"watch", "77.95", exitFailure}, {"critical", "0", exitFailure}, {"unknown", "null", exitFailure}} {
		text := strings.NewReplacer("MODE", tc.mode, "SCORE", tc.score).Replace(healthAnswer)
		tl := answering(t, http.StatusOK, text)
		if code := tl.run(t, "health"); code != tc.code || tl.stderr.Len() > 0 {
			t.Errorf("%s: exit %d, want %d; stderr %q", tc.mode, code, tc.code, &tl.stderr)
		}
		if tc.mode == "watch" {
			golden(t, "health.txt", tl.stdout.Bytes())
		}
		if code := tl.run(t, "health", "--output=json"); code != tc.code || tl.stdout.String() != text {
			t.Errorf("%s as JSON: exit %d, want %d; stdout %q, want what the daemon says", tc.mode, code, tc.code, &tl.stdout)
		}
	}
	tl := answering(t, http.StatusOK, `{"mode":"unknown","score":null,"since":null,"reason":"not_evaluated","text":"No rules.","components":{},"evaluated_at":null,"event_types":{}}`)
	if code := tl.run(t, "health"); code != exitFailure || tl.stdout.String() != "unknown, score –\nNo rules.\n" {
		t.Errorf("without rules: exit %d, %q", code, &tl.stdout)
	}
}

// TestQuiet looks at what is asked of the daemon, and at the tables.
func TestQuiet(t *testing.T) {
	t.Parallel()
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked = r.Method + " " + r.URL.Path + " " + string(body)
		w.Header().Set("Content-Type", "application/json")
		switch r.Method {
		case http.MethodPost:
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"id":"3","from":"2026-11-23T12:00:00Z","until":"2026-11-23T14:00:00Z","active":true,"weekly":false,"event_types":["a","b"],"reason":"why"}`)
		case http.MethodDelete:
			_, _ = io.WriteString(w, `{"status":"ended"}`)
		default:
			_, _ = io.WriteString(w, `{"quiet":[{"id":"3","from":"2026-11-23T12:00:00Z","until":"2026-11-23T14:00:00Z","active":true,"weekly":false,"event_types":["a","b"],"reason":"why"},`+
				`{"id":null,"from":"2026-11-28T00:00:00Z","until":"2026-11-29T00:00:00Z","active":false,"weekly":true,"event_types":[],"reason":"","line":4}]}`)
		}
	}))
	defer server.Close()
	tl := &tool{env: map[string]string{"USAGE_URL": server.URL, "USAGE_TOKEN": fakeAdmin}}
	plan := func(until string) string {
		data, err := json.Marshal(map[string]any{"until": until})
		if err != nil {
			t.Fatal(err)
		}
		return "POST /api/v1/usage/quiet " + string(data)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--until=2h"}, plan("2026-11-23T14:00:00Z")},
		{[]string{"--until=3d"}, plan("2026-11-26T12:00:00Z")},
		{[]string{"--until=18:00"}, plan("2026-11-23T18:00:00Z")},
		{[]string{"--until=12:00"}, plan("2026-11-24T12:00:00Z")},
		{[]string{"--until=2026-12-27 06:00"}, plan("2026-12-27T06:00:00Z")},
		{[]string{"--until=2026-12-27"}, plan("2026-12-27T00:00:00Z")},
		{[]string{"plan", "--until=2026-12-27T06:00:00+01:00"}, plan("2026-12-27T06:00:00+01:00")},
		{[]string{"--until=2h", "--from=1h", "--type=a", "--type=b", "--reason=why"},
			`POST /api/v1/usage/quiet {"from":"2026-11-23T13:00:00Z","until":"2026-11-23T14:00:00Z","event_types":["a","b"],"reason":"why"}`},
		{[]string{"end", "1", "x/y"}, "DELETE /api/v1/usage/quiet/x/y "},
		{[]string{"list"}, "GET /api/v1/usage/quiet "},
	} {
		if code := tl.run(t, append([]string{"quiet"}, tc.args...)...); code != exitOK || asked != tc.want {
			t.Errorf("%q: exit %d, asked for %s; want %s", tc.args, code, asked, tc.want)
		}
	}
	golden(t, "quiet.txt", tl.stdout.Bytes())
	if code := tl.run(t, "quiet", "--until=yesterday"); code != exitUsage || !strings.Contains(tl.stderr.String(), `"yesterday" is no time: give one as`) {
		t.Errorf("exit %d, %s; want 2 and what a time is", code, &tl.stderr)
	}
	tl.now = func() time.Time { return fakeNow.In(time.FixedZone("", 2*3600)) }
	if code := tl.run(t, "quiet", "--until=18:00"); code != exitOK || asked != plan("2026-11-23T18:00:00+02:00") {
		t.Errorf("exit %d, asked for %s; want six o'clock of this machine", code, asked)
	}
}
