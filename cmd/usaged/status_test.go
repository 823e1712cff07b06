package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func gzipped(t testing.TB, text []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestStatuses reaches the statuses of the API with requests as curl sends them. 503 is in TestDiskFull and TestStop, 408 in
// TestSlowBody.
func TestStatuses(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	const ndjson, post, get = "application/x-ndjson", http.MethodPost, http.MethodGet
	event := `{"event_type":"good","user_id":"ann"}`
	type headers = map[string]string
	for _, tc := range []struct {
		name, method, path, role string
		header                   headers
		body                     []byte
		status                   int
		code                     string // of the problem
		pointer                  string // of its first fault
	}{
		{"it accepts an event", post, eventsPath, "producer", headers{"Content-Type": "application/json"}, []byte(event), 202, "", ""},
		{"it accepts both slash forms", post, eventsPath + "/", "producer", nil, []byte(event), 202, "", ""},
		{"it accepts an array", post, eventsPath, "admin", nil, []byte("[" + event + "," + event + "]"), 202, "", ""},
		{"it accepts lines", post, eventsPath, "producer", headers{"Content-Type": ndjson}, []byte(event + "\n" + event), 202, "", ""},
		{"it accepts gzip", post, eventsPath, "producer", headers{"Content-Encoding": "gzip"}, gzipped(t, []byte(event)), 202, "", ""},
		{"it accepts a user as itself", post, eventsPath, "user", nil, []byte(`{"event_type":"own"}`), 202, "", ""},
		{"it refuses broken JSON", post, eventsPath, "producer", nil, []byte(`{"event_type":`), 400, "malformed", ""},
		{"it refuses broken gzip", post, eventsPath, "producer", headers{"Content-Encoding": "gzip"}, []byte(event), 400, "broken_compression", ""},
		{"it wants a token", post, eventsPath, "", nil, []byte(event), 401, "unauthorized", ""},
		{"it wants a known token", get, "/api/v1/usage/summary", "", headers{"Authorization": "Bearer usaged_admin_x"}, nil, 401, "unauthorized", ""},
		{"it refuses a viewer's event", post, eventsPath, "viewer", nil, []byte(event), 403, "forbidden", ""},
		{"it refuses a user's event of another", post, eventsPath, "user", nil, []byte(event), 403, "foreign_user", "/user_id"},
		{"it refuses a producer's read", get, "/api/v1/usage/summary", "producer", nil, nil, 403, "forbidden", ""},
		{"it knows no such path", get, "/api/v2", "admin", nil, nil, 404, "not_found", ""},
		{"it knows no such meter", get, "/api/v1/usage/steps", "admin", nil, nil, 404, "unknown_meter", ""},
		{"it refuses a method", http.MethodPut, eventsPath, "admin", nil, []byte(event), 405, "method_not_allowed", ""},
		{"it refuses a large body", post, eventsPath, "producer", nil, bytes.Repeat([]byte(" "), 8<<20+1), 413, "too_large", ""},
		{"it refuses a large body in gzip", post, eventsPath, "producer", headers{"Content-Encoding": "gzip"},
			gzipped(t, bytes.Repeat([]byte(" "), 8<<20+1)), 413, "too_large", ""},
		{"it refuses many events", post, eventsPath, "producer", headers{"Content-Type": ndjson},
			[]byte(strings.Repeat(event+"\n", 10_001)), 413, "too_many_events", ""},
		{"it refuses XML", post, eventsPath, "producer", headers{"Content-Type": "application/xml"}, []byte(event), 415, "unsupported_media_type", ""},
		{"it refuses brotli", post, eventsPath, "producer", headers{"Content-Encoding": "br"}, []byte(event), 415, "unsupported_encoding", ""},
		{"it refuses a number in metadata", post, eventsPath, "producer", headers{"Content-Type": ndjson},
			[]byte(event + "\n" + event + "\n" + `{"event_type":"bad","metadata":{"rows":7}}`), 422, "invalid", "/2/metadata/rows"},
		{"it refuses a user's time", post, eventsPath, "user", nil, []byte(`{"event_type":"bad","created_at":"2026-01-01T00:00:00Z"}`), 422, "invalid",
			"/created_at"},
		{"it refuses an old event", post, eventsPath, "producer", nil, []byte(`{"event_type":"bad","created_at":"2001-01-01T00:00:00Z"}`), 422,
			"invalid", "/created_at"},
		{"it refuses a long window", get, "/api/v1/usage/daily?days=31", "admin", nil, nil, 422, "invalid_query", "/query/days"},
		{"it refuses an unknown parameter", get, "/api/v1/usage/summary?day=3", "admin", nil, nil, 422, "invalid_query", "/query/day"},
		{"it answers everybody", get, "/-/healthy", "", nil, nil, 200, "", ""},
		{"it is ready", get, "/-/ready", "", nil, nil, 200, "", ""},
		{"it reloads", post, "/-/reload", "admin", nil, nil, 200, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := d.do(tc.method, tc.path, tc.role, tc.header, tc.body)
			if a.status != tc.status {
				t.Fatalf("status %d, want %d: %s", a.status, tc.status, a.body)
			}
			if tc.code == "" {
				return
			}
			var p struct {
				Status int
				Code   string
				Errors []struct{ Pointer string }
			}
			if err := json.Unmarshal(a.body, &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%v in %q %s", err, a.header.Get("Content-Type"), a.body)
			}
			if p.Status != tc.status || p.Code != tc.code || tc.pointer != "" && (len(p.Errors) == 0 || p.Errors[0].Pointer != tc.pointer) {
				t.Errorf("problem %+v, want %d, %s, %s", p, tc.status, tc.code, tc.pointer)
			}
		})
	}
	// Single events, a batch of two, two lines, and the user's own: nothing that was refused.
	if f := d.figures(7); f.Ledger.All.Accepted != 8 || len(f.Summary) != 2 || f.Summary["good"]["ann"] != 7 || f.Summary["own"]["user"] != 1 {
		t.Errorf("counted %v, ledger %+v", f.Summary, f.Ledger.All)
	}
	tag := d.do(get, "/api/v1/usage/summary", "admin", nil, nil).header.Get("Etag")
	if a := d.do(get, "/api/v1/usage/summary", "admin", headers{"If-None-Match": tag}, nil); a.status != http.StatusNotModified {
		t.Errorf("If-None-Match %s: status %d, want 304", tag, a.status)
	}
}

// TestSlowBody sends half a body and then nothing, for longer than the daemon waits.
func TestSlowBody(t *testing.T) {
	if !full() {
		t.Skipf("the daemon waits a minute for a body: set %s=1", fullEnv)
	}
	t.Parallel()
	d := newInstance(t)
	d.start()
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{\"event_type\":", eventsPath, d.token("producer"))
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 408 ")) || !bytes.Contains(answer, []byte(`"body_timeout"`)) {
		t.Errorf("%v, %s; want 408 body_timeout", err, answer)
	}
	if all := d.settle().All; all.Accepted != 0 {
		t.Errorf("ledger %+v, want nothing accepted", all)
	}
}
