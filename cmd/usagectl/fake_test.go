package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"usaged/aggregator/event"
)

// fakeNow is the clock of the fake daemon and of the tool under test.
var fakeNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const (
	fakeAdmin    = "admin-secret"
	fakeProducer = "producer-secret"
)

// fakeDaemon answers like the real one, with the same validation, and keeps everything in memory.
type fakeDaemon struct {
	*httptest.Server
	retention int
	now       func() time.Time

	mu       sync.Mutex
	requests int
	accepted []event.Event
	counted  map[string]bool // user and id
	faults   func(request int) (status int, retryAfter string)
	maxBody  int
	skew     int    // accepted events that the ledger forgets
	metrics  string // more of them
	broken   string // why it cannot reload; empty: it can
	behind   int    // events that are pending at most, one fewer with each look at the ledger
}

func newFakeDaemon(t testing.TB) *fakeDaemon {
	t.Helper()
	d := &fakeDaemon{retention: 30, now: func() time.Time { return fakeNow }, counted: map[string]bool{}, maxBody: 8 << 20}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /-/healthy", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /-/ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /api/v1/usage/events", d.post)
	mux.HandleFunc("GET /api/v1/usage/summary", d.admin(d.summary))
	mux.HandleFunc("GET /api/v1/usage/users", d.admin(d.users))
	mux.HandleFunc("GET /api/v1/usage/daily", d.admin(d.daily))
	mux.HandleFunc("GET /api/v1/usage/ledger", d.admin(d.ledger))
	mux.HandleFunc("GET /api/v1/usage/meters", d.admin(fakeMeters))
	mux.HandleFunc("GET /api/v1/usage/{meter}", d.meter)
	mux.HandleFunc("POST /-/reload", d.reload)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		fmt.Fprint(w, d.metrics)
		fmt.Fprintln(w, "# HELP process_cpu_seconds_total Time.\nprocess_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 5e+07")
	})
	d.Server = httptest.NewServer(mux)
	t.Cleanup(d.Close)
	return d
}

func refuseWith(w http.ResponseWriter, status int, code, detail string, faults []event.Fault) {
	errs := make([]map[string]string, len(faults))
	for i, f := range faults {
		errs[i] = map[string]string{"pointer": f.Pointer, "code": f.Code, "detail": f.Detail}
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "code": code, "detail": detail, "errors": errs,
	})
}

func (d *fakeDaemon) admin(h func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+fakeAdmin {
			refuseWith(w, http.StatusUnauthorized, "unauthorized", "a token is needed", nil)
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if days, _ := strconv.Atoi(r.URL.Query().Get("days")); days > d.retention {
			refuseWith(w, http.StatusUnprocessableEntity, "invalid_query", "the query has faults", nil)
			return
		}
		w.Header().Set("ETag", `W/"1"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		json.NewEncoder(w).Encode(h())
	}
}

func (d *fakeDaemon) post(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests++
	if d.faults != nil {
		if status, after := d.faults(d.requests); status != 0 {
			w.Header().Set("Retry-After", after)
			refuseWith(w, status, "unavailable", "later", nil)
			return
		}
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token != fakeAdmin && token != fakeProducer {
		refuseWith(w, http.StatusUnauthorized, "unauthorized", "a token is needed", nil)
		return
	}
	body, err := fakeBody(r)
	if err != nil || len(body) > d.maxBody {
		refuseWith(w, http.StatusRequestEntityTooLarge, "too_large", "the body is too large", nil)
		return
	}
	format := event.JSON
	if r.Header.Get("Content-Type") == "application/x-ndjson" {
		format = event.NDJSON
	}
	now := d.now()
	batch, err := event.NewDecoder().Decode(body, format, event.Origin{
		Token: "producer", User: "producer", AcceptedAt: now, Oldest: event.DayOf(now) - event.Day(d.retention-1),
	})
	if err != nil {
		faults, _ := errors.AsType[*event.Faults](err)
		status := map[event.FaultKind]int{event.Malformed: 400, event.Invalid: 422, event.TooMany: 413, event.Forbidden: 403}[faults.Kind]
		refuseWith(w, status, "invalid", faults.Error(), faults.List)
		return
	}
	d.keep(batch)
	w.WriteHeader(http.StatusAccepted)
	if batch.Single {
		fmt.Fprintln(w, `{"status":"accepted"}`)
		return
	}
	fmt.Fprintf(w, `{"status":"accepted","accepted":%d}`, batch.N)
}

func fakeBody(r *http.Request) ([]byte, error) {
	switch r.Header.Get("Content-Encoding") {
	case "gzip":
		zr, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(zr)
	case "zstd":
		zr, err := zstd.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		defer zr.Close()
		return io.ReadAll(zr)
	}
	return io.ReadAll(r.Body)
}

func (d *fakeDaemon) keep(batch *event.Batch) {
	var view event.View
	rest := batch.Entries
	for range batch.N {
		entry, more := cutEntry(rest)
		rest = more
		if err := event.Parse(entry, &view); err != nil {
			panic(err)
		}
		e := view.Event("fake", uint64(len(d.accepted)+1))
		d.accepted = append(d.accepted, e)
		d.counted[e.UserID+"\x00"+e.ID] = true
	}
}

func cutEntry(b []byte) (entry, rest []byte) {
	n, shift := 0, 0
	for i, c := range b {
		n |= int(c&0x7f) << shift
		shift += 7
		if c < 0x80 {
			return b[i+1 : i+1+n], b[i+1+n:]
		}
	}
	panic("no entry")
}

func (d *fakeDaemon) summary() any {
	types := map[string]map[string]int{}
	for _, e := range d.accepted {
		if types[e.Type] == nil {
			types[e.Type] = map[string]int{}
		}
		types[e.Type][e.UserID]++
	}
	return map[string]any{"summary": types, "generated_at": fakeNow, "days": 7, "from": "2026-11-17", "to": "2026-11-23"}
}

// users is in descending order, as the real answer is.
func (d *fakeDaemon) users() any {
	n := map[string]int{}
	for _, e := range d.accepted {
		n[e.UserID]++
	}
	return inOrder(n)
}

func (d *fakeDaemon) reload(w http.ResponseWriter, r *http.Request) {
	if d.broken != "" {
		refuseWith(w, http.StatusInternalServerError, "reload_failed", d.broken, nil)
		return
	}
	d.admin(func() any { return map[string]string{"status": "reloaded"} })(w, r)
}

// fakeMeters lists a meter that the tool knows and one that it does not.
func fakeMeters() any {
	return map[string]any{"meters": []map[string]any{
		{"name": "queries", "description": "Queries by question.", "events": []string{"sql_generation", "sql_execution"}, "reference": "question", "by": "reference"},
		{"name": "llm-tokens", "description": "Tokens.", "reference": "model", "value": "total_tokens", "sum": []string{"prompt_tokens", "completion_tokens"}, "by": "user"},
		{"name": "publishes-by-adapter", "description": "Publications by adapter.", "events": []string{"dashboard_publish"}, "reference": "adapter", "by": "reference"},
		{"name": "users", "description": "All events.", "by": "user"},
	}}
}

// meter counts events by the references of two meters, or by user, and answers with JSON or CSV.
func (d *fakeDaemon) meter(w http.ResponseWriter, r *http.Request) {
	reference := map[string]string{"queries": "question", "publishes-by-adapter": "adapter"}[r.PathValue("meter")]
	if reference == "" {
		refuseWith(w, http.StatusNotFound, "unknown_meter", "there is no meter "+r.PathValue("meter"), nil)
		return
	}
	n := map[string]int{}
	for _, e := range d.events() {
		value, ok := e.Metadata[reference]
		switch {
		case ok && r.URL.Query().Get("by") == "user":
			n[e.UserID]++
		case ok:
			n[value]++
		}
	}
	if r.Header.Get("Accept") != "text/csv" {
		d.admin(func() any { return inOrder(n) })(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	for _, key := range slices.Sorted(maps.Keys(n)) {
		fmt.Fprintf(w, "%s,%d\r\n", key, n[key])
	}
}

// inOrder writes an object by descending value, then key.
func inOrder(n map[string]int) json.RawMessage {
	names := slices.SortedFunc(maps.Keys(n), func(a, b string) int {
		if n[a] != n[b] {
			return n[b] - n[a]
		}
		return strings.Compare(a, b)
	})
	var b bytes.Buffer
	for i, name := range names {
		key, _ := json.Marshal(name)
		fmt.Fprintf(&b, "%s%s:%d", map[bool]string{true: "{", false: ","}[i == 0], key, n[name])
	}
	if len(names) == 0 {
		b.WriteString("{")
	}
	return json.RawMessage(b.String() + "}")
}

func (d *fakeDaemon) daily() any {
	types := map[string]int{}
	for _, e := range d.accepted {
		types[e.Type]++
	}
	return map[string]any{"daily": map[string]any{"2026-11-22": map[string]int{}, "2026-11-23": types}}
}

func (d *fakeDaemon) ledger() any {
	pending := min(d.behind, len(d.counted))
	account := map[string]int{
		"accepted":   len(d.accepted) + d.skew,
		"counted":    len(d.counted) - pending,
		"duplicates": len(d.accepted) - len(d.counted),
		"pending":    pending, "damaged": 0,
	}
	d.behind = max(0, d.behind-1)
	return map[string]any{
		"producers": []string{"p1"}, "all": account, "types": map[string]any{}, "others": []any{}, "rejected": map[string]int{"invalid": 2},
	}
}

func (d *fakeDaemon) events() []event.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.accepted)
}

// dataDir is a data directory as the daemon would have left it.
func (d *fakeDaemon) dataDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	d.announce(t, dir)
	return dir
}

func (d *fakeDaemon) announce(t testing.TB, dir string) {
	t.Helper()
	for name, text := range map[string]string{urlFile: d.URL, adminFile: fakeAdmin, producerFile: fakeProducer} {
		writeFile(t, filepath.Join(dir, name), text+"\n")
	}
}

func writeFile(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tool is one run of usagectl.
type tool struct {
	stdin          string
	env            map[string]string
	now            func() time.Time // nil: always fakeNow
	stdout, stderr bytes.Buffer
}

func (tl *tool) run(t testing.TB, args ...string) int {
	t.Helper()
	return tl.runContext(t.Context(), t, args...)
}

func (tl *tool) runContext(ctx context.Context, t testing.TB, args ...string) int {
	t.Helper()
	tl.stdout.Reset()
	tl.stderr.Reset()
	now := tl.now
	if now == nil {
		now = func() time.Time { return fakeNow }
	}
	code := run(ctx, args, &process{
		stdin:  strings.NewReader(tl.stdin),
		stdout: &tl.stdout,
		stderr: &tl.stderr,
		getenv: func(name string) string { return tl.env[name] },
		now:    now,
	})
	t.Logf("usagectl %s\nexit %s\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), strconv.Itoa(code), &tl.stdout, &tl.stderr)
	return code
}

// report is the summary of an import with --output=json.
func (tl *tool) report(t testing.TB) importReport {
	t.Helper()
	var r importReport
	if err := json.Unmarshal(tl.stdout.Bytes(), &r); err != nil {
		t.Fatalf("the report is not JSON: %v", err)
	}
	return r
}
