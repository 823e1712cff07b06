package api_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"usaged/api"
)

func TestEventsCarryTheirSender(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range []struct{ role, body, user string }{
		{"user", `{"event_type":"a"}`, "alice"},
		{"user", `{"event_type":"a","user_id":"alice"}`, "alice"},
		{"producer", `{"event_type":"a"}`, "the-producer"},
		{"producer", `{"event_type":"a","user_id":"bob"}`, "bob"},
		{"admin", `{"event_type":"a","user_id":"bob","created_at":"2026-11-22T00:00:00Z"}`, "bob"},
	} {
		before := len(r.journal.accepted())
		if rec := r.call("POST", events, c.role, c.body); rec.Code != http.StatusAccepted {
			t.Fatalf("%s as %s: status %d: %s", c.body, c.role, rec.Code, rec.Body)
		}
		e := r.journal.accepted()[before]
		if e.UserID != c.user || e.Token != "the-"+c.role || !e.AcceptedAt.Equal(noon) {
			t.Errorf("%s as %s: got user %q, token %q, accepted at %s", c.body, c.role, e.UserID, e.Token, e.AcceptedAt)
		}
	}
}

// TestOldestDayFollowsRetention posts events on both sides of the retention window.
func TestOldestDayFollowsRetention(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for day, want := range map[string]int{"2026-10-25": 202, "2026-10-24": 422} {
		body := fmt.Sprintf(`{"event_type":"a","created_at":"%sT23:00:00Z"}`, day)
		if rec := r.call("POST", events, "producer", body); rec.Code != want {
			t.Errorf("an event of %s: status %d, want %d: %s", day, rec.Code, want, rec.Body)
		}
	}
}

func TestBothSlashFormsWork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range []struct{ method, path string }{
		{"POST", events}, {"GET", "/api/v1/usage/summary"}, {"GET", "/api/v1/usage/daily"}, {"GET", "/api/v1/usage/minutes"},
		{"GET", "/api/v1/openapi.yaml"}, {"GET", "/metrics"}, {"GET", "/-/healthy"}, {"GET", "/-/ready"}, {"POST", "/-/reload"},
	} {
		plain := r.call(c.method, c.path, "admin", one)
		slash := r.call(c.method, c.path+"/", "admin", one)
		if plain.Code/100 != 2 || slash.Code != plain.Code || slash.Body.String() != plain.Body.String() {
			t.Errorf("%s %s: status %d, with a slash %d", c.method, c.path, plain.Code, slash.Code)
		}
	}
}

// TestNothingIsRedirected posts to paths that routers like to clean.
func TestNothingIsRedirected(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, path := range []string{"//api/v1/usage/events", "/api//v1/usage/events", "/api/v1/./usage/events", "/x/../metrics", events + "//"} {
		if rec := r.call("POST", path, "producer", one); rec.Code != http.StatusNotFound && rec.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: status %d, want 404 or 405", path, rec.Code)
		}
	}
}

// TestPrometheusHasBothSlashForms asks a Prometheus that knows one form of a path alone, and looks whether the other is closed to the
// same roles.
func TestPrometheusHasBothSlashForms(t *testing.T) {
	t.Parallel()
	inner := http.NewServeMux()
	for _, path := range []string{"query", "write", "label/a%2Fb/values"} {
		inner.HandleFunc("/prometheus/api/v1/"+path, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL) })
	}
	r := newRig(t, func(c *api.Config) { c.Prometheus = inner })
	if index := r.call("GET", "/", "", "").Body.String(); !strings.Contains(index, "\nGET    /prometheus/api/v1/…  ") {
		t.Errorf("the index doesn't list it: %s", index)
	}
	for _, c := range []struct {
		method, path, query string
		roles               map[string]int
	}{
		{"GET", "query", "?query=up", map[string]int{"": 401, "user": 403, "producer": 403, "viewer": 200, "admin": 200}},
		{"POST", "query", "", map[string]int{"": 401, "user": 403, "producer": 403, "viewer": 200, "admin": 200}},
		{"POST", "write", "", map[string]int{"": 401, "user": 403, "producer": 200, "viewer": 403, "admin": 200}},
		{"POST", "%77rite", "", map[string]int{"viewer": 403}},
		{"POST", "/write", "", map[string]int{"viewer": 404, "admin": 404}},
		{"POST", "x/../write", "", map[string]int{"viewer": 404, "admin": 404}},
		{"GET", "label/a%2Fb/values", "", map[string]int{"viewer": 200}},
		{"GET", "", "", map[string]int{"viewer": 404}},
	} {
		for role, want := range c.roles {
			for _, path := range []string{c.path, c.path + "/"} {
				rec := r.call(c.method, "/prometheus/api/v1/"+path+c.query, role, "")
				if rec.Code != want {
					t.Errorf("%s %s as %q: status %d, want %d", c.method, path, role, rec.Code, want)
				}
				if rec.Code == 200 && !strings.HasSuffix(rec.Body.String(), c.query) {
					t.Errorf("%s %s: Prometheus got %s", c.method, path, rec.Body)
				}
			}
		}
	}
}

// TestBodyLimitIsExact posts bodies of the limit and of one byte more, in every way of sending them.
func TestBodyLimitIsExact(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newRig(t).handler)
	defer server.Close()
	const limit = 8 << 20
	for extra, want := range map[int]int{0: http.StatusAccepted, 1: http.StatusRequestEntityTooLarge} {
		body := one + strings.Repeat(" ", limit-len(one)+extra)
		for name, send := range map[string]struct {
			body     io.Reader
			encoding string
		}{
			"with a length": {strings.NewReader(body), ""},
			"in chunks":     {io.MultiReader(strings.NewReader(body)), ""},
			"gzip":          {strings.NewReader(gzipOf(body)), "gzip"},
			"zstd":          {strings.NewReader(zstdOf(body)), "zstd"},
		} {
			req, err := http.NewRequest("POST", server.URL+events, send.body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+tokenOf("producer"))
			req.Header.Set("Content-Encoding", send.encoding)
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Fatalf("%s, %d bytes over: %v", name, extra, err)
			}
			if resp.StatusCode != want {
				t.Errorf("%s, %d bytes over the limit: status %d, want %d", name, extra, resp.StatusCode, want)
			}
			_ = resp.Body.Close()
		}
	}
}

// TestBombsCostNoMemory posts bodies that open to eight times the limit, or ask for a window of half a gibibyte.
func TestBombsCostNoMemory(t *testing.T) {
	// Not parallel: it measures the memory of the process.
	var bomb bytes.Buffer
	w, err := zstd.NewWriter(&bomb, zstd.WithWindowSize(zstd.MaxWindowSize))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 40 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	bombs := map[string]string{
		"gzip": gzipOf(strings.Repeat(" ", 64<<20)),
		"zstd": zstdOf(strings.Repeat(" ", 64<<20)), "zstd with a huge window": bomb.String(),
	}
	r := newRig(t)
	for name, body := range bombs {
		encoding, _, _ := strings.Cut(name, " ")
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		rec := r.call("POST", events, "producer", body, "Content-Encoding", encoding)
		runtime.ReadMemStats(&after)
		if rec.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: status %d, want 413: %s", name, rec.Code, rec.Body)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
			t.Errorf("%s: %d bytes of %d were opened into %d MiB", name, len(body), 64<<20, grown>>20)
		}
	}
}

// TestInflightMemoryIsBounded holds some bodies in the journal and sends one more than there is room for.
func TestInflightMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const room = 4
	r := newRig(t, func(c *api.Config) { c.MaxInflightBytes = room * 4096 })
	r.journal.gate = make(chan struct{})
	var wg sync.WaitGroup
	for range room {
		wg.Go(func() {
			if rec := r.call("POST", events, "producer", one); rec.Code != http.StatusAccepted {
				t.Errorf("status %d: %s", rec.Code, rec.Body)
			}
		})
	}
	for !strings.Contains(r.metricsText(), fmt.Sprintf("usaged_ingest_inflight_bytes %d\n", room*4096)) {
		runtime.Gosched()
	}
	rec := r.call("POST", events, "producer", one)
	if rec.Code != http.StatusServiceUnavailable || rec.Header().Get("Retry-After") != "1" {
		t.Errorf("status %d, Retry-After %q", rec.Code, rec.Header().Get("Retry-After"))
	}
	close(r.journal.gate)
	wg.Wait()
	for _, want := range []string{
		"usaged_ingest_inflight_bytes 0\n", "usaged_ingest_inflight_limit_bytes 16384\n",
		`usaged_ingest_rejected_total{reason="overloaded"} 1` + "\n", "usaged_ingest_events_total 4\n",
	} {
		if text := r.metricsText(); !strings.Contains(text, want) {
			t.Errorf("metrics lack %q:\n%s", want, text)
		}
	}
}

func (r *rig) metricsText() string {
	var b strings.Builder
	r.set.WritePrometheus(&b)
	return b.String()
}

// TestNothingLeaks sends everything that is refused somewhere on its way and then looks for memory still charged.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, e := range postExchanges() {
		r.journal.err, r.journal.panics = nil, e.name == "survives a panic"
		if e.rig != nil {
			e.rig(r)
		}
		r.call(e.method, e.path, e.role, e.body, e.header...)
	}
	if text := r.metricsText(); !strings.Contains(text, "usaged_ingest_inflight_bytes 0\n") ||
		!strings.Contains(text, "usaged_http_requests_in_flight 0\n") {
		t.Errorf("something is still in flight:\n%s", text)
	}
}

// TestConcurrentPosts posts from many connections at once and looks for every event.
func TestConcurrentPosts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	server := httptest.NewServer(r.handler)
	defer server.Close()
	const senders, each = 16, 50
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				body, encoding := fmt.Sprintf(`{"id":"%d-%d","event_type":"a"}`, s, i), ""
				switch i % 3 {
				case 1:
					body, encoding = gzipOf(body), "gzip"
				case 2:
					body, encoding = zstdOf(body), "zstd"
				}
				req, err := http.NewRequest("POST", server.URL+events, strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+tokenOf("producer"))
				req.Header.Set("Content-Encoding", encoding)
				resp, err := server.Client().Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusAccepted {
					t.Errorf("status %d", resp.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, e := range r.journal.accepted() {
		seen[e.ID] = true
	}
	if len(seen) != senders*each {
		t.Errorf("%d different events were accepted, want %d", len(seen), senders*each)
	}
}

// pipes is a listener of connections in memory, whose deadlines follow the clock of synctest.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// serve runs a server as the daemon has it and returns a connection to it.
func serve(t *testing.T, r *rig) (conn net.Conn, stop func()) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := api.Server(r.handler, r.cfg.Logger)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	client, end := net.Pipe()
	l.conns <- end
	return client, func() {
		_ = client.Close()
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	}
}

const head = "POST " + events + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer usaged_producer_test\r\n"

func TestSlowSendersAreCutOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, send, want string
		after            time.Duration
	}{
		{"a header that never ends", "POST / HTTP/1.1\r\nX: ", "", 5 * time.Second},
		{"a body that never ends", head + "Content-Length: 1000\r\n\r\n{", "HTTP/1.1 408 ", time.Minute},
		{"chunks that never end", head + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "HTTP/1.1 408 ", time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				conn, stop := serve(t, r)
				defer stop()
				start := time.Now()
				if _, err := io.WriteString(conn, c.send); err != nil {
					t.Fatal(err)
				}
				answer, err := io.ReadAll(conn)
				if err != nil || !strings.HasPrefix(string(answer), c.want) || (c.want == "" && len(answer) > 0) {
					t.Errorf("answer %q, error %v, want %q", answer, err, c.want)
				}
				if waited := time.Since(start); waited > c.after+time.Second {
					t.Errorf("cut off after %s, want %s", waited, c.after)
				}
				if !strings.Contains(r.metricsText(), "usaged_ingest_inflight_bytes 0\n") {
					t.Error("memory is still taken")
				}
			})
		})
	}
}

// TestSlowReadersAreCutOff asks for a long answer and doesn't read it.
func TestSlowReadersAreCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.rollups.types = manyRows(10_000)
		conn, stop := serve(t, r)
		defer stop()
		_, err := io.WriteString(conn, "GET /api/v1/usage/summary HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer usaged_admin_test\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute) // of the bubble's clock
		rest, err := io.ReadAll(conn)
		if err != nil || bytes.HasSuffix(rest, []byte("\r\n0\r\n\r\n")) {
			t.Errorf("the answer went on (%d bytes, error %v)", len(rest), err)
		}
		if !strings.Contains(r.metricsText(), "usaged_http_responses_cut_total 1\n") {
			t.Errorf("not counted:\n%s", r.metricsText())
		}
	})
}

// TestExpectContinue sends a header and looks whether the server asks for the body.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newRig(t).handler)
	defer server.Close()
	for _, c := range []struct {
		name, head string
		want       []int
	}{
		{"asks for the body", head + "Content-Length: 30\r\n", []int{100, 202}},
		{"doesn't ask for a body that is too long", head + "Content-Length: 9000000\r\n", []int{413}},
		{"doesn't ask for a body that it cannot open", head + "Content-Encoding: br\r\nContent-Length: 30\r\n", []int{415}},
		{"doesn't ask a stranger", strings.Replace(head, "producer", "nobody", 1) + "Content-Length: 30\r\n", []int{401}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, c.head+"Expect: 100-continue\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(conn)
			for _, want := range c.want {
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != want {
					t.Fatalf("status %d, want %d", resp.StatusCode, want)
				}
				if want == http.StatusContinue {
					if _, err := io.WriteString(conn, one); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestTruncatedBodyAcceptsNothing ends the connection in the middle of a body.
func TestTruncatedBodyAcceptsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		conn, stop := serve(t, r)
		if _, err := io.WriteString(conn, head+"Content-Length: 500\r\n\r\n"+one); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		synctest.Wait()
		defer stop()
		if got := len(r.journal.accepted()); got != 0 {
			t.Errorf("%d events accepted", got)
		}
		if text := r.metricsText(); !strings.Contains(text, `usaged_ingest_rejected_total{reason="incomplete_body"} 1`) {
			t.Errorf("not counted:\n%s", text)
		}
	})
}
