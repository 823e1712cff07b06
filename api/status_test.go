package api_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"usaged/aggregator"
	"usaged/aggregator/tail"
	"usaged/api"
	"usaged/rules/health"
)

// exchange is one request and what should come of it. The answer is compared with testdata/<name>.golden.
type exchange struct {
	name   string // it …
	role   string
	method string
	path   string
	body   string
	header []string // pairs
	rig    func(*rig)
	edit   func(*api.Config)
	status int
	events int // accepted
}

const events = "/api/v1/usage/events"

func gzipOf(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

func zstdOf(s string, opts ...zstd.EOption) string {
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		panic(err)
	}
	return string(w.EncodeAll([]byte(s), nil))
}

const one = `{"event_type":"sql_execution"}`

func down(r *rig)      { r.journal.err = fmt.Errorf("append: %w", aggregator.ErrUnavailable) }
func onFire(r *rig)    { r.journal.err = errDisk }
func storeDown(r *rig) { r.rollups.err = errors.New("dial tcp: connection refused") }

func postExchanges() []exchange {
	ndjson := []string{"Content-Type", "application/x-ndjson"}
	post := func(name, role, body string, status, accepted int, header ...string) exchange {
		return exchange{name: name, role: role, method: "POST", path: events, body: body, status: status, events: accepted, header: header}
	}
	list := []exchange{
		post("accepts one event", "user", one, 202, 1, "Content-Type", "application/json"),
		post("accepts a batch", "producer", "["+one+","+one+"]", 202, 2, "Content-Type", "application/json; charset=utf-8"),
		post("accepts NDJSON", "admin", one+"\n\n"+one+"\n", 202, 2, ndjson...),
		post("accepts jsonl", "admin", one, 202, 1, "Content-Type", "application/jsonl"),
		post("accepts ndjson by its short name", "admin", one, 202, 1, "Content-Type", "application/ndjson"),
		post("accepts no content type", "admin", one, 202, 1),
		post("accepts gzip", "producer", gzipOf("["+one+"]"), 202, 1, "Content-Encoding", "gzip"),
		post("accepts zstd", "producer", zstdOf("["+one+"]"), 202, 1, "Content-Encoding", "ZSTD"),
		post("accepts identity", "producer", one, 202, 1, "Content-Encoding", "identity"),
		post("accepts an empty array", "producer", "[]", 202, 0),
		post("accepts empty NDJSON", "producer", "", 202, 0, ndjson...),
		post("refuses an empty body", "producer", "", 400, 0),
		post("refuses what is not JSON", "producer", `{"event_type":`, 400, 0),
		post("refuses data behind the value", "producer", one+one, 400, 0),
		post("refuses a repeated key", "producer", `{"event_type":"a","event_type":"b"}`, 400, 0),
		post("refuses broken gzip", "producer", "not gzip", 400, 0, "Content-Encoding", "gzip"),
		post("refuses truncated zstd", "producer", zstdOf(strings.Repeat(one, 99))[:20], 400, 0, "Content-Encoding", "zstd"),
		post("refuses no token", "", one, 401, 0),
		post("refuses an unknown token", "nobody", one, 401, 0),
		post("refuses another scheme", "", one, 401, 0, "Authorization", "Basic dXNlcjpwYXNz"),
		post("refuses a viewer", "viewer", one, 403, 0),
		post("refuses another user", "user", `{"event_type":"a","user_id":"bob"}`, 403, 0),
		post("refuses a body that is too long", "producer", strings.Repeat(" ", 8<<20+1), 413, 0),
		post("refuses too many events", "producer", strings.Repeat(one+"\n", 10_001), 413, 0, ndjson...),
		post("accepts what curl -d sends", "producer", one, 202, 1, "Content-Type", "application/x-www-form-urlencoded"),
		post("refuses a form", "producer", "event_type=a", 400, 0, "Content-Type", "application/x-www-form-urlencoded"),
		post("refuses another type", "producer", one, 415, 0, "Content-Type", "text/plain"),
		post("refuses another charset", "producer", one, 415, 0, "Content-Type", "application/json; charset=latin1"),
		post("refuses brotli", "producer", one, 415, 0, "Content-Encoding", "br"),
		post("refuses two compressions", "producer", one, 415, 0, "Content-Encoding", "gzip, zstd"),
		post("refuses a bad event", "producer", `{"event_type":"__x","metadata":{"rows":42},"EVENT_TYPE":"y"}`, 422, 0),
		post("refuses a batch for one bad event", "producer", "["+one+",{}]", 422, 0),
		post("lists the first hundred faults", "producer", "["+strings.Repeat("{},", 149)+"{}]", 422, 0),
		post("cuts a pointer that is too long", "producer", `{"event_type":"a","`+strings.Repeat("ä", 10_000)+`":1}`, 422, 0),
		post("refuses a user's created_at", "user", `{"event_type":"a","created_at":"2026-11-23T11:00:00Z"}`, 422, 0),
		post("is unavailable while the journal is", "producer", one, 503, 0),
		post("fails for an unknown reason", "producer", one, 500, 0),
		post("survives a panic", "producer", `{"event_type":"secret"}`, 500, 0),
		post("is overloaded", "producer", strings.Repeat(" ", 5000), 503, 0),
	}
	for i := range list {
		switch list[i].name {
		case "is unavailable while the journal is":
			list[i].rig = down
		case "fails for an unknown reason":
			list[i].rig = onFire
		case "survives a panic":
			list[i].rig = func(r *rig) { r.journal.panics = true }
		case "is overloaded":
			list[i].edit = func(c *api.Config) { c.MaxInflightBytes = 4096 }
		}
	}
	return list
}

func getExchanges() []exchange {
	get := func(name, path string, status int) exchange {
		return exchange{name: name, role: "admin", method: "GET", path: path, status: status}
	}
	csv := func(name, path string) exchange {
		return exchange{name: name, role: "admin", method: "GET", path: path, header: []string{"Accept", "text/csv"}, status: 200}
	}
	list := []exchange{
		get("summarises a week", "/api/v1/usage/summary", 200),
		get("summarises one type of one user", "/api/v1/usage/summary?days=1&event_type=sql_generation&user_id=alice", 200),
		get("summarises the busiest", "/api/v1/usage/summary?top=1&days=30", 200),
		get("summarises nothing", "/api/v1/usage/summary?event_type=none", 200),
		get("lists users", "/api/v1/usage/users", 200),
		get("lists queries by question", "/api/v1/usage/queries?days=2", 200),
		get("lists queries by user", "/api/v1/usage/queries?by=user&top=1", 200),
		get("lists dashboards", "/api/v1/usage/dashboards", 200),
		get("lists tokens by user", "/api/v1/usage/llm-tokens", 200),
		get("lists tokens by model", "/api/v1/usage/llm-tokens?by=reference", 200),
		get("lists a meter of the operator", "/api/v1/usage/minutes", 200),
		get("lists days", "/api/v1/usage/daily?days=3", 200),
		get("lists thirty days", "/api/v1/usage/daily", 200),
		get("lists days of meters", "/api/v1/usage/daily?days=2&meter=minutes&meter=queries&meter=minutes", 200),
		get("lists the meters", "/api/v1/usage/meters", 200),
		csv("summarises as CSV", "/api/v1/usage/summary"),
		csv("lists a meter as CSV", "/api/v1/usage/minutes?by=reference&days=3"),
		csv("lists users as CSV", "/api/v1/usage/users?top=1"),
		csv("lists days as CSV", "/api/v1/usage/daily?days=3"),
		csv("lists days of a meter as CSV", "/api/v1/usage/daily?days=3&meter=minutes"),
		csv("defuses formulas in CSV", "/api/v1/usage/summary?days=1"),
		get("keeps a ledger", "/api/v1/usage/ledger", 200),
		get("tells the score", "/api/v1/usage/health", 200),
		get("tells no score without rules", "/api/v1/usage/health", 200),
		get("refuses parameters of the score", "/api/v1/usage/health?event_type=a", 422),
		get("has nobody for the score", "/api/v1/usage/health", 404),
		get("gets no answer about the score", "/api/v1/usage/health", 503),
		get("lists quiet times", "/api/v1/usage/quiet", 200),
		get("says what a backfill did", "/api/v1/usage/backfill", 200),
		get("refuses parameters of a backfill", "/api/v1/usage/backfill?days=3", 422),
		get("has no Prometheus to fill", "/api/v1/usage/backfill", 404),
		get("lists labels", "/api/v1/usage/labels", 200),
		{name: "frees a label", role: "admin", method: "POST", path: "/api/v1/usage/labels/free?value=sql_execution", status: 200},
		{name: "frees no label that is not there", role: "admin", method: "POST", path: "/api/v1/usage/labels/free?value=x", status: 404},
		{name: "frees no label without a value", role: "admin", method: "POST", path: "/api/v1/usage/labels/free", status: 422},
		get("tells the time", "/api/v1/usage/clock", 200),
		get("refuses parameters of the clock", "/api/v1/usage/clock?days=3", 422),
		get("says what will be deleted", "/api/v1/usage/retention", 200),
		get("cannot say what will be deleted", "/api/v1/usage/retention", 503),
		get("describes itself", "/", 200),
		get("is healthy", "/-/healthy", 200),
		get("is ready", "/-/ready", 200),
		get("exposes metrics", "/metrics", 200),
		get("refuses every bad parameter", "/api/v1/usage/summary?days=0&top=x&user_id=&limit=5&event_type=a&event_type=b", 422),
		get("refuses days beyond the retention", "/api/v1/usage/daily?days=31", 422),
		get("refuses a query that is not one", "/api/v1/usage/summary?days=%zz", 422),
		get("refuses a dimension", "/api/v1/usage/queries?by=model", 422),
		get("refuses a reference that is not there", "/api/v1/usage/users?by=reference", 422),
		get("refuses a meter that is not there by day", "/api/v1/usage/daily?meter=minutes&meter=nonsense", 422),
		get("refuses parameters of the ledger", "/api/v1/usage/ledger?a~b/c=1", 422),
		get("names the meters that exist", "/api/v1/usage/nonsense", 404),
		get("finds nothing", "/api/v2/usage", 404),
		get("has no Prometheus to ask", "/prometheus/api/v1/query?query=up", 404),
		get("finds nothing at a doubled slash", "//api/v1/usage/summary", 404),
		get("refuses a cursor that is none", events+"?after=AZOhsgAAcACAAAAAAAAAAQ.01.000000&since=yesterday&limit=0&follow=yes", 422),
		get("refuses a cursor of another replica", events+"?after=AZOhsgAAcACAAAAAAAAAAQ.1.000000", 409),
		get("refuses a cursor that retention has overtaken", events+"?after=AZOhsgAAcACAAAAAAAAAAQ.1.000000", 410),
		get("cannot read the journal", events, 500),
		get("has no rollups", "/api/v1/usage/summary", 503),
		get("has no ledger", "/api/v1/usage/ledger", 503),
		get("survives a panicking reader", "/api/v1/usage/summary?user_id=secret", 500),
		get("is not ready", "/-/ready", 503),
		get("exposes no metrics", "/metrics", 404),
		{name: "demands a token for metrics", method: "GET", path: "/metrics", status: 401},
		{name: "demands a viewer for metrics", role: "producer", method: "GET", path: "/metrics", status: 403},
		{name: "gives a viewer metrics", role: "viewer", method: "GET", path: "/metrics", status: 200},
		{name: "refuses a viewer's read", role: "viewer", method: "GET", path: "/api/v1/usage/users", status: 403},
		{name: "rebuilds a meter", role: "admin", method: "POST", path: "/api/v1/usage/meters/minutes/rebuild", status: 202},
		{name: "rebuilds no meter that is not there", role: "admin", method: "POST", path: "/api/v1/usage/meters/nonsense/rebuild", status: 404},
		{name: "cannot note a rebuild", role: "admin", method: "POST", path: "/api/v1/usage/meters/minutes/rebuild", status: 500},
		{name: "accepts the wall clock", role: "admin", method: "POST", path: "/api/v1/usage/clock/accept", status: 200},
		{name: "cannot note that the wall clock is accepted", role: "admin", method: "POST", path: "/api/v1/usage/clock/accept", status: 500},
		{name: "deletes what is beyond the retention", role: "admin", method: "POST", path: "/api/v1/usage/retention/apply", status: 200},
		{name: "begins a backfill", role: "admin", method: "POST", path: "/api/v1/usage/backfill", status: 202},
		{name: "begins no backfill without Prometheus", role: "admin", method: "POST", path: "/api/v1/usage/backfill", status: 404},
		{name: "cannot note a backfill", role: "admin", method: "POST", path: "/api/v1/usage/backfill", status: 500},
		{name: "accepts a new normal", role: "admin", method: "POST", path: "/api/v1/usage/health/accept", status: 200,
			body: `{"event_type": "sql_generation", "reason": "half of the users have moved"}`},
		{name: "accepts nothing where no drop is told", role: "admin", method: "POST", path: "/api/v1/usage/health/accept", status: 409, body: `{"event_type": "a"}`},
		{name: "accepts nothing of another form", role: "admin", method: "POST", path: "/api/v1/usage/health/accept", status: 400, body: `{"type": "a"}`},
		{name: "plans a quiet time", role: "admin", method: "POST", path: "/api/v1/usage/quiet", status: 201,
			body: `{"from":"2026-11-24T00:00:00+01:00","until":"2026-11-25T00:00:00Z","event_types":["b","a"],"reason":"say \"hi\""}`},
		{name: "refuses a quiet time with faults", role: "admin", method: "POST", path: "/api/v1/usage/quiet", status: 422,
			body: `{"from":"2026-11-20T00:00:00Z","event_types":["__all__"]}`},
		{name: "refuses a quiet time of another form", role: "admin", method: "POST", path: "/api/v1/usage/quiet", status: 400,
			body: `{"until":"tomorrow"}`},
		{name: "refuses a quiet time that is too long", role: "admin", method: "POST", path: "/api/v1/usage/quiet", status: 413,
			body: `{"reason":"` + strings.Repeat("x", 64<<10) + `"}`},
		{name: "refuses one quiet time more", role: "admin", method: "POST", path: "/api/v1/usage/quiet", status: 409,
			body: `{"until":"2026-11-25T00:00:00Z"}`},
		{name: "ends a quiet time", role: "admin", method: "DELETE", path: "/api/v1/usage/quiet/1", status: 200},
		{name: "ends no quiet time that is not there", role: "admin", method: "DELETE", path: "/api/v1/usage/quiet/2", status: 404},
		{name: "takes no POST for a meter", role: "admin", method: "POST", path: "/api/v1/usage/minutes", status: 405},
		{name: "answers HEAD for CSV", role: "admin", method: "HEAD", path: "/api/v1/usage/users", header: []string{"Accept", "text/csv"}, status: 200},
		{name: "reloads", role: "admin", method: "POST", path: "/-/reload", status: 200},
		{name: "fails to reload", role: "admin", method: "POST", path: "/-/reload", status: 500},
		{name: "refuses a producer's reload", role: "producer", method: "POST", path: "/-/reload", status: 403},
		{name: "takes no GET for reload", role: "admin", method: "GET", path: "/-/reload", status: 405},
		{name: "takes no DELETE", role: "admin", method: "DELETE", path: "/api/v1/usage/users", status: 405},
		{name: "answers HEAD", role: "admin", method: "HEAD", path: "/api/v1/usage/summary", status: 200},
	}
	for i := range list {
		switch e := &list[i]; e.name {
		case "has no rollups":
			e.rig = storeDown
		case "tells no score without rules":
			e.edit = func(c *api.Config) { c.Health = health.NewReader(nobody{}) }
		case "has nobody for the score":
			e.edit = func(c *api.Config) { c.Health = nil }
		case "gets no answer about the score":
			e.edit = func(c *api.Config) { c.Health = health.NewReader(nobody{errors.New("dial tcp: refused")}) }
		case "refuses one quiet time more":
			e.rig = func(r *rig) { fillQuiet(r) }
		case "defuses formulas in CSV":
			e.rig = func(r *rig) { r.rollups.types = formulas() }
		case "cannot note a rebuild":
			e.edit = func(c *api.Config) {
				c.Meters = &rebuilds{err: errors.New("write meters.json: no space left on device")}
			}
		case "has no Prometheus to fill", "begins no backfill without Prometheus":
			e.edit = func(c *api.Config) { c.Backfill = nil }
		case "cannot note a backfill":
			e.edit = func(c *api.Config) {
				c.Backfill = &backfills{err: errors.New("write backfill.json: no space left on device")}
			}
		case "cannot note that the wall clock is accepted":
			e.edit = func(c *api.Config) {
				c.Clock = &wrongClock{err: errors.New("write clock.json: no space left on device")}
			}
		case "cannot say what will be deleted":
			e.edit = func(c *api.Config) { c.Retention = &lowered{err: errors.New("dial tcp: refused")} }
		case "has no ledger":
			e.edit = func(c *api.Config) { c.Ledger = books{err: errors.New("dial tcp: refused")} }
		case "refuses a cursor of another replica":
			e.edit = func(c *api.Config) { c.Tails = tailless{fmt.Errorf("open: %w", tail.ErrForeignCursor)} }
		case "refuses a cursor that retention has overtaken":
			e.edit = func(c *api.Config) { c.Tails = tailless{fmt.Errorf("open: %w", tail.ErrCursorGone)} }
		case "survives a panicking reader":
			e.rig = func(r *rig) { r.rollups.panics = true }
		case "is not ready":
			e.edit = func(c *api.Config) { c.Ready = func() error { return errors.New("the disk is full") } }
		case "exposes no metrics":
			e.edit = func(c *api.Config) { c.Metrics = nil }
		case "demands a token for metrics", "demands a viewer for metrics", "gives a viewer metrics":
			e.edit = func(c *api.Config) { c.MetricsAuth = true }
		case "fails to reload":
			e.edit = func(c *api.Config) { c.Reload = func() error { return errors.New("tokens.yml:3: role must be …") } }
		}
	}
	return list
}

func TestExchanges(t *testing.T) {
	t.Parallel()
	_, described := description(t)
	for _, e := range append(postExchanges(), getExchanges()...) {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			var r *rig
			if e.edit != nil {
				r = newRig(t, e.edit)
			} else {
				r = newRig(t)
			}
			if e.rig != nil {
				e.rig(r)
			}
			server := httptest.NewServer(r.handler)
			defer server.Close()
			req, resp, body := e.send(t, server.URL)
			if resp.StatusCode != e.status {
				t.Errorf("status %d, want %d: %s", resp.StatusCode, e.status, body)
			}
			if got := len(r.journal.accepted()); got != e.events {
				t.Errorf("%d events accepted, want %d", got, e.events)
			}
			checkAnswer(t, described, req, resp, body)
			golden(t, e.name, resp, body)
			for _, secret := range []string{"usaged_", "secret", "sql_execution"} {
				if strings.Contains(r.log.String(), secret) {
					t.Errorf("the log holds %q: %s", secret, r.log)
				}
			}
		})
	}
}

// send makes the request through a real connection.
func (e *exchange) send(t *testing.T, base string) (*http.Request, *http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(e.method, base+e.path, strings.NewReader(e.body))
	if err != nil {
		t.Fatal(err)
	}
	if e.role != "" {
		req.Header.Set("Authorization", "Bearer "+tokenOf(e.role))
	}
	for i := 0; i < len(e.header); i += 2 {
		req.Header.Add(e.header[i], e.header[i+1])
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return req, resp, body
}

// golden compares an answer with the file of its name.
func golden(t *testing.T, name string, resp *http.Response, body []byte) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", resp.Status)
	for _, key := range slices.Sorted(maps.Keys(resp.Header)) {
		if key != "Date" {
			fmt.Fprintf(&b, "%s: %s\n", key, strings.Join(resp.Header[key], ", "))
		}
	}
	fmt.Fprintf(&b, "\n%s", body)
	path := filepath.Join("testdata", strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), "'", "")+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got:\n%s\nwant (%s):\n%s", b.String(), path, want)
	}
}
