package api_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/klauspost/compress/zstd"

	"usaged/aggregator/rollup"
	"usaged/api"
)

func manyRows(n int) []rollup.TypeUsers {
	users := make([]rollup.Total, n)
	for i := range users {
		users[i] = rollup.Total{Key: fmt.Sprintf("user-%d \"\\\n", i), N: uint64(n - i)}
	}
	return []rollup.TypeUsers{{Type: "a", Users: users}, {Type: "b", Users: users}}
}

func TestETags(t *testing.T) {
	t.Parallel()
	const summary = "/api/v1/usage/summary"
	r := newRig(t)
	tag := r.call("GET", summary, "admin", "").Header().Get("Etag")
	if !strings.HasPrefix(tag, `W/"`) {
		t.Fatalf("ETag %q is not weak", tag)
	}
	strong := strings.TrimPrefix(tag, "W/")
	for header, want := range map[string]int{
		tag: 304, strong: 304, "*": 304, ` "other" , ` + tag: 304, `W/"other",` + strong + `, "third"`: 304, `,,` + tag: 304,
		`"a,b", ` + tag: 304, "": 200, `"other"`: 200, strings.Trim(strong, `"`): 200, `"`: 200, `W/`: 200, `w/` + strong: 200,
		strings.ToUpper(tag): 200, `"unclosed, ` + strong: 200,
	} {
		before := r.rollups.reads
		rec := r.call("GET", summary, "admin", "", "If-None-Match", header)
		if rec.Code != want {
			t.Errorf("If-None-Match: %s: status %d, want %d", header, rec.Code, want)
		}
		if rec.Code == http.StatusNotModified {
			if rec.Body.Len() > 0 || rec.Header().Get("Etag") != tag || rec.Header().Get("Cache-Control") != "private, no-cache" ||
				rec.Header().Get("Vary") != "Accept-Encoding" {
				t.Errorf("304 has body %q and header %v", rec.Body, rec.Header())
			}
			if r.rollups.reads != before {
				t.Error("304 read rollups")
			}
		}
	}
	two := r.call("GET", summary, "admin", "", "If-None-Match", `"x"`, "If-None-Match", tag)
	if two.Code != http.StatusNotModified {
		t.Errorf("the second of two headers was not looked at: status %d", two.Code)
	}
}

// TestETagsDiffer asks different questions, and the same about different data.
func TestETagsDiffer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	seen := map[string]string{}
	for _, version := range []string{"v1", "v2"} {
		r.rollups.version = version
		for _, path := range []string{
			"summary", "summary?days=6", "summary?top=1", "summary?event_type=a", "summary?user_id=a", "queries", "queries?by=user",
			"queries?top=1", "dashboards", "daily", "daily?meter=users", "daily?meter=users&meter=queries", "minutes",
		} {
			tag := r.call("HEAD", "/api/v1/usage/"+path, "admin", "").Header().Get("Etag")
			if other, ok := seen[tag]; ok {
				t.Errorf("%s at %s has the ETag of %s", path, version, other)
			}
			seen[tag] = path + " at " + version
		}
		for path, same := range map[string]string{
			"summary?days=7": "summary", "queries?by=reference": "queries", "daily?days=30": "daily", "summary/": "summary",
		} {
			if tag := r.call("HEAD", "/api/v1/usage/"+path, "admin", "").Header().Get("Etag"); seen[tag] != same+" at "+version {
				t.Errorf("%s doesn't have the ETag of %s", path, same)
			}
		}
	}
	for _, path := range []string{"summary", "queries", "daily"} {
		tag := r.call("HEAD", "/api/v1/usage/"+path, "admin", "", "Accept", "text/csv").Header().Get("Etag")
		if other, ok := seen[tag]; ok || tag == "" {
			t.Errorf("%s as CSV has the ETag %q of %s", path, tag, other)
		}
	}
	if r.rollups.reads > 0 {
		t.Error("HEAD read rollups")
	}
}

func TestAnswersAreCompressed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.rollups.types = manyRows(2000)
	server := httptest.NewServer(r.handler)
	defer server.Close()
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	for accept, want := range map[string]string{
		"": "", "identity": "", "br": "", "gzip": "gzip", "zstd": "zstd", "gzip, zstd": "zstd", "gzip;q=1, zstd;q=0.5": "gzip",
		"gzip;q=0, zstd;q=0": "", "gzip;q=0.001": "gzip", "deflate, gzip, br, zstd": "zstd",
	} {
		req, err := http.NewRequest("GET", server.URL+"/api/v1/usage/summary", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tokenOf("admin"))
		req.Header.Set("Accept-Encoding", accept)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("Content-Encoding"); got != want || resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("Accept-Encoding: %s: got %q, want %q; Vary %q", accept, got, want, resp.Header.Get("Vary"))
		}
		var answer struct {
			Summary map[string]map[string]uint64 `json:"summary"`
			Days    int                          `json:"days"`
		}
		if err := json.NewDecoder(opened(t, resp)).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if len(answer.Summary["a"]) != 2000 || answer.Summary["b"]["user-1 \"\\\n"] != 1999 || answer.Days != 7 {
			t.Errorf("Accept-Encoding: %s: the answer has %d users", accept, len(answer.Summary["a"]))
		}
	}
	if rec := r.call("GET", "/api/v1/usage/users", "admin", "", "Accept-Encoding", "gzip"); rec.Header().Get("Content-Encoding") != "" {
		t.Error("a tiny answer was compressed")
	}
}

func opened(t *testing.T, resp *http.Response) io.Reader {
	t.Helper()
	switch resp.Header.Get("Content-Encoding") {
	case "gzip":
		r, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r
	case "zstd":
		r, err := zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	return resp.Body
}

// TestTotalsKeepTheirOrder reads keys in the order in which they are sent.
func TestTotalsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.rollups.types = []rollup.TypeUsers{{Type: "a", Users: []rollup.Total{{Key: "z", N: 3}, {Key: "b", N: 2}, {Key: "c", N: 2}}}}
	body := r.call("GET", "/api/v1/usage/summary", "admin", "").Body.String()
	if want := `{"summary":{"a":{"z":3,"b":2,"c":2}},`; !strings.HasPrefix(body, want) {
		t.Errorf("got %s, want %s…", body, want)
	}
}

// TestWindowNeverExceedsRetention asks with a retention that is shorter than the default windows.
func TestWindowNeverExceedsRetention(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Reader = shortRetention{c.Reader} })
	if body := r.call("GET", "/api/v1/usage/summary", "admin", "").Body.String(); !strings.Contains(body, `"days":3,"from":"2026-11-21"`) {
		t.Errorf("summary: %s", body)
	}
	if body := r.call("GET", "/api/v1/usage/daily", "admin", "").Body.String(); strings.Count(body, "2026-11") != 3 {
		t.Errorf("daily: %s", body)
	}
}

type shortRetention struct{ api.Reader }

func (shortRetention) Retention() int { return 3 }

// TestClientsThatLeaveAreNoTrouble gives up while the answer is being computed.
func TestClientsThatLeaveAreNoTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.rollups.hold = make(chan struct{})
		conn, stop := serve(t, r)
		defer stop()
		_, err := io.WriteString(conn, "GET /api/v1/usage/summary HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer usaged_admin_test\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_ = conn.Close()
		synctest.Wait()
		if text := r.metricsText(); !strings.Contains(text, `{handler="summary",code="499"} 1`) || r.log.String() != "" {
			t.Errorf("log %q, metrics:\n%s", r.log, text)
		}
	})
}

// TestReadsGiveUp asks a store that doesn't answer.
func TestReadsGiveUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.rollups.hold = make(chan struct{})
		if rec := r.call("GET", "/api/v1/usage/summary", "admin", ""); rec.Code != http.StatusServiceUnavailable {
			t.Errorf("status %d: %s", rec.Code, rec.Body)
		}
	})
}

// TestPending asks while events are accepted and not counted: reads say so, and who has an answer of that time gets another one when it
// is whole, although no day has changed.
func TestPending(t *testing.T) {
	t.Parallel()
	var pending atomic.Int64
	r := newRig(t, func(c *api.Config) { c.Ledger = books{pending: &pending} })
	for _, tc := range []struct {
		path string
		body bool // says it in the body too
	}{
		{"summary", true},
		{"daily", true},
		{"daily?meter=queries", true},
		{"users", false},
		{"llm-tokens?by=reference", false},
	} {
		get := func(headers ...string) (code int, header, body, tag string) {
			t.Helper()
			rec := r.call("GET", "/api/v1/usage/"+tc.path, "admin", "", headers...)
			return rec.Code, rec.Header().Get("Usage-Pending"), rec.Body.String(), rec.Header().Get("Etag")
		}
		pending.Store(17000)
		code, header, body, waiting := get()
		if code != http.StatusOK || header != "17000" || strings.Contains(body, `"pending":17000}`) != tc.body {
			t.Errorf("%s: status %d, header %q, %s", tc.path, code, header, body)
		}
		pending.Store(16999)
		if code, header, _, _ := get("If-None-Match", waiting); code != http.StatusNotModified || header != "16999" {
			t.Errorf("%s, another is counted: status %d, header %q, want 304 and 16999", tc.path, code, header)
		}
		if code, header, _, _ := get("Accept", "text/csv"); code != http.StatusOK || header != "16999" {
			t.Errorf("%s as CSV: status %d, header %q", tc.path, code, header)
		}
		pending.Store(0)
		code, header, body, whole := get("If-None-Match", waiting)
		if code != http.StatusOK || header != "0" || strings.Contains(body, `"pending":0}`) != tc.body {
			t.Errorf("%s, all are counted: status %d, header %q, %s", tc.path, code, header, body)
		}
		if code, _, _, _ := get("If-None-Match", whole); code != http.StatusNotModified {
			t.Errorf("%s, asked again: status %d, want 304", tc.path, code)
		}
		pending.Store(-1)
		if code, header, body, _ := get("If-None-Match", whole); code != http.StatusOK || header != "" || strings.Contains(body, `"pending"`) {
			t.Errorf("%s, it is not known: status %d, header %q, %s", tc.path, code, header, body)
		}
	}
}
