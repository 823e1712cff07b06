package client_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"usaged/client"
)

const token = "s3cret-token"

// script answers requests one after the other without a network, so that time can be simulated.
type script struct {
	mu      sync.Mutex
	answers []answer
	seen    []seenRequest
}

type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

type seenRequest struct {
	at     time.Time
	method string
	url    string
	header http.Header
	body   string
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := seenRequest{at: time.Now(), method: r.Method, url: r.URL.String(), header: r.Header.Clone()}
	if r.Body != nil {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		req.body = string(data)
	}
	s.seen = append(s.seen, req)
	a := s.answers[min(len(s.seen), len(s.answers))-1]
	if a.err != nil {
		return nil, a.err
	}
	if a.header == nil {
		a.header = http.Header{}
	}
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(strings.NewReader(a.body))}, nil
}

func (s *script) client(t testing.TB, change ...func(*client.Config)) *client.Client {
	t.Helper()
	cfg := client.Config{URL: "http://daemon.test/prefix/", Token: token, HTTPClient: &http.Client{Transport: s}}
	for _, c := range change {
		c(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var accepted = answer{status: http.StatusAccepted, body: `{"status":"accepted","accepted":1}`}

func problem(status int, code, retryAfter string) answer {
	h := http.Header{"Content-Type": {"application/problem+json"}}
	if retryAfter != "" {
		h.Set("Retry-After", retryAfter)
	}
	return answer{status: status, header: h, body: fmt.Sprintf(`{"type":"about:blank","title":"T","status":%d,"code":%q,"detail":"why"}`, status, code)}
}

func TestSend(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{accepted}}
	events := []client.Event{
		{Type: "a", UserID: "ann", Metadata: map[string]string{"k": "v"}, CreatedAt: time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)},
		{ID: "mine", Type: "b"},
	}
	if err := s.client(t).Send(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	req := s.seen[0]
	if req.method != "POST" || req.url != "http://daemon.test/prefix/api/v1/usage/events" {
		t.Errorf("%s %s", req.method, req.url)
	}
	if got := req.header.Get("Authorization"); got != "Bearer "+token {
		t.Errorf("Authorization %q", got)
	}
	if got := req.header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("Content-Type %q", got)
	}
	lines := strings.Split(strings.TrimSpace(req.body), "\n")
	var first client.Event
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || len(lines) != 2 {
		t.Fatalf("body %q: %v", req.body, err)
	}
	if first.ID == "" || first.Type != "a" || !first.CreatedAt.Equal(events[0].CreatedAt) {
		t.Errorf("first event %+v", first)
	}
	if lines[1] != `{"id":"mine","event_type":"b"}` {
		t.Errorf("second event %s", lines[1])
	}
	if events[0].ID != "" {
		t.Error("Send changed the caller's event")
	}
}

func TestSendNothing(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{accepted}}
	if err := s.client(t).Send(t.Context(), nil); err != nil || len(s.seen) != 0 {
		t.Errorf("%v, %d requests", err, len(s.seen))
	}
}

func TestSendRefusesWhatJSONCannotSay(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{accepted}}
	err := s.client(t).Send(t.Context(), []client.Event{{Type: "a"}, {Type: "\xff"}})
	if err == nil || !strings.Contains(err.Error(), "event 1") || len(s.seen) != 0 {
		t.Errorf("%v, %d requests", err, len(s.seen))
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	const body = "{\"event_type\":\"a\"}\n"
	for compression, unpack := range map[client.Compression]func(io.Reader) (io.Reader, error){
		client.None: func(r io.Reader) (io.Reader, error) { return r, nil },
		client.Gzip: func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		client.Zstd: func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) },
	} {
		s := &script{answers: []answer{accepted}}
		n, err := s.client(t, func(c *client.Config) { c.Compression = compression }).Post(t.Context(), []byte(body))
		if err != nil || n != 1 {
			t.Fatalf("%q: %d, %v", compression, n, err)
		}
		r, err := unpack(strings.NewReader(s.seen[0].body))
		if err != nil {
			t.Fatalf("%q: %v", compression, err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != body || s.seen[0].header.Get("Content-Encoding") != string(compression) {
			t.Errorf("%q: body %q (%v), header %v", compression, got, err, s.seen[0].header)
		}
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset by peer")
	for _, tc := range []struct {
		name     string
		answers  []answer
		requests int
		waits    time.Duration // at least
		fails    bool
	}{
		{"it tries again after an overload", []answer{problem(503, "overloaded", ""), accepted}, 2, 1, false},
		{"it waits as long as it is told", []answer{problem(429, "slow", "7"), problem(503, "x", "3"), accepted}, 3, 10 * time.Second, false},
		{"it understands a date", []answer{{status: 503, header: http.Header{
			"Retry-After": {"Mon, 23 Nov 2026 10:00:05 GMT"}, "Date": {"Mon, 23 Nov 2026 10:00:00 GMT"},
		}}, accepted}, 2, 5 * time.Second, false},
		{"it tries again behind a proxy's errors", []answer{{status: 502}, {status: 504}, accepted}, 3, 1, false},
		{"it tries again when the connection breaks", []answer{{err: broken}, accepted}, 2, 1, false},
		{"it doesn't repeat a refusal", []answer{problem(422, "invalid", "")}, 1, 0, true},
		{"it doesn't repeat an internal error", []answer{problem(500, "internal", "")}, 1, 0, true},
		{"it doesn't wait longer than its patience", []answer{problem(503, "x", "3600")}, 1, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: tc.answers}
				start := time.Now()
				err := s.client(t).Send(t.Context(), []client.Event{{Type: "a"}})
				took := time.Since(start)
				if (err != nil) != tc.fails || len(s.seen) != tc.requests || took < tc.waits {
					t.Errorf("%v after %d requests and %v; want %d requests, %v", err, len(s.seen), took, tc.requests, tc.waits)
				}
				for _, r := range s.seen[1:] {
					if r.body != s.seen[0].body || r.body == "" {
						t.Errorf("a retry sent %q, the first try %q", r.body, s.seen[0].body)
					}
				}
			})
		})
	}
}

func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: []answer{problem(503, "unavailable", "")}}
		start := time.Now()
		err := s.client(t, func(c *client.Config) { c.RetryFor = time.Minute }).Send(t.Context(), []client.Event{{Type: "a"}})
		p, ok := errors.AsType[*client.Problem](err)
		if !ok || p.Code != "unavailable" || len(s.seen) < 5 {
			t.Errorf("%v after %d requests", err, len(s.seen))
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

func TestSingleTry(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{{err: errors.New("connection refused")}}}
	err := s.client(t, func(c *client.Config) { c.RetryFor = -1 }).Send(t.Context(), []client.Event{{Type: "a"}})
	u, ok := errors.AsType[*client.Unreachable](err)
	if !ok || u.Err.Error() != "connection refused" || len(s.seen) != 1 {
		t.Errorf("%v after %d requests", err, len(s.seen))
	}
}

func TestContextEndsRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: []answer{problem(503, "unavailable", "20")}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.client(t).Send(ctx, []client.Event{{Type: "a"}})
		if _, ok := errors.AsType[*client.Problem](err); !ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline and the last answer", err)
		}
	})
}

func TestContextEndsRequest(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
	}))
	defer srv.Close()
	c, err := client.New(client.Config{URL: srv.URL, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if err := c.Send(ctx, []client.Event{{Type: "a"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the cancellation", err)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	faults := answer{status: 422, header: http.Header{"Content-Type": {"application/problem+json; charset=utf-8"}}, body: `{"title":"Unprocessable Entity",
		"status":422,"code":"invalid","detail":"the body has 2 faults","later":"field","errors":[{"pointer":"/2/metadata/rows","code":"wrong_type",
		"detail":"must be a string"},{"pointer":"","code":"x","detail":"y"}]}`}
	for _, tc := range []struct {
		name   string
		answer answer
		code   string
		text   string
	}{
		{"it lists faults", faults, "invalid", "422 Unprocessable Entity: the body has 2 faults: /2/metadata/rows: must be a string (and 1 more)"},
		{"it takes a proxy's page", answer{status: 404, header: http.Header{"Content-Type": {"text/html"}}, body: "<html>"}, "", "404 Not Found"},
		{"it takes plain text", answer{status: 400, header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, body: "no\n such thing\n"}, "",
			"400 Bad Request: no such thing"},
		{"it follows no redirect", answer{status: 307, header: http.Header{"Location": {"https://elsewhere.test/x"}}}, "",
			"307 Temporary Redirect: it points elsewhere, to https://elsewhere.test/x; redirects are not followed"},
		{"it doubts a broken problem", answer{status: 400, header: http.Header{"Content-Type": {"application/problem+json"}}, body: "{"}, "", "400 Bad Request"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := &script{answers: []answer{tc.answer}}
			err := s.client(t).Send(t.Context(), []client.Event{{Type: "a"}})
			p, ok := errors.AsType[*client.Problem](err)
			if !ok {
				t.Fatalf("%v is no problem", err)
			}
			if p.Code != tc.code || p.Status != tc.answer.status || p.Error() != tc.text {
				t.Errorf("code %q, text %q; want %q, %q", p.Code, p, tc.code, tc.text)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("the error holds the token: %v", err)
			}
		})
	}
}

func TestFaultElement(t *testing.T) {
	t.Parallel()
	for pointer, want := range map[string]struct {
		index int
		rest  string
		ok    bool
	}{
		"/2/metadata/rows": {2, "/metadata/rows", true},
		"#/7":              {7, "", true},
		"/0/":              {0, "/", true},
		"":                 {},
		"/event_type":      {},
		"/-1/x":            {},
		"2":                {},
	} {
		index, rest, ok := client.Fault{Pointer: pointer}.Element()
		if index != want.index || rest != want.rest || ok != want.ok {
			t.Errorf("%q: %d %q %v, want %+v", pointer, index, rest, ok, want)
		}
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{
		{status: 200, body: `{"summary":{"b":{"zed":9,"ann":5},"a":{}},"generated_at":"2026-11-23T12:00:00Z","days":7,"from":"2026-11-17","to":"2026-11-23"}`},
		{status: 200, body: `{"second":2,"first":1}`},
		{status: 200, body: `{"daily":{"2026-11-22":{},"2026-11-23":{"a":3}}}`},
		{status: 200, body: `{"producers":["p"],"all":{"accepted":3,"counted":1,"duplicates":1,"pending":0,"damaged":1},"types":{"a":{"accepted":1}},
			"rejected":{"invalid":4},"others":[{"id":"q","counted":7,"duplicates":0}]}`},
	}}
	c := s.client(t)
	summary, err := c.Summary(t.Context(), client.Query{Days: 7, Top: 2, EventType: "0", UserID: "a b"})
	if err != nil || fmt.Sprint(summary.Types["b"]) != "[{zed 9} {ann 5}]" || summary.To != "2026-11-23" || len(summary.Types) != 2 {
		t.Errorf("summary %+v, %v", summary, err)
	}
	meter, err := c.Meter(t.Context(), "llm-tokens", client.Query{By: "reference"})
	if err != nil || fmt.Sprint(meter) != "[{second 2} {first 1}]" {
		t.Errorf("meter %+v, %v", meter, err)
	}
	daily, err := c.Daily(t.Context(), client.Query{})
	if err != nil || daily.Days["2026-11-23"]["a"] != 3 || len(daily.Days) != 2 {
		t.Errorf("daily %+v, %v", daily, err)
	}
	ledger, err := c.Ledger(t.Context())
	if err != nil || !ledger.All.Balanced() || ledger.Types["a"].Balanced() || ledger.Others[0].Counted != 7 || ledger.Rejected["invalid"] != 4 {
		t.Errorf("ledger %+v, %v", ledger, err)
	}
	for i, want := range []string{"summary?days=7&event_type=0&top=2&user_id=a+b", "llm-tokens?by=reference", "daily", "ledger"} {
		if got := s.seen[i].url; got != "http://daemon.test/prefix/api/v1/usage/"+want {
			t.Errorf("request %s, want %s", got, want)
		}
	}
}

func TestReadsRefuseOtherShapes(t *testing.T) {
	t.Parallel()
	for _, body := range []string{``, `[]`, `{"a":-1}`, `{"a":1`, `{"a":1}{}`, `{"a":1,"a":2}`} {
		s := &script{answers: []answer{{status: 200, body: body}}}
		if totals, err := s.client(t).Meter(t.Context(), "users", client.Query{}); err == nil {
			t.Errorf("%q was read as %v", body, totals)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{{status: 200, body: strings.Repeat(" ", 1001)}}}
	_, err := s.client(t, func(c *client.Config) { c.MaxResponseBytes = 1000 }).Get(t.Context(), client.LedgerPath, nil, "")
	if err == nil || !strings.Contains(err.Error(), "larger than 1000 bytes") {
		t.Errorf("%v", err)
	}
}

func TestGetAs(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{{status: 200, header: http.Header{"Content-Type": {"text/csv; charset=utf-8"}}, body: "a,1\r\n"}}}
	got, err := s.client(t).GetAs(t.Context(), client.MeterPath("users"), client.Query{Days: 3}.Values(), "text/csv")
	if err != nil || string(got.Body) != "a,1\r\n" || s.seen[0].header.Get("Accept") != "text/csv" {
		t.Errorf("%+v, %v", got, err)
	}
	s = &script{answers: []answer{{status: 200, header: http.Header{"Content-Type": {"application/json"}}, body: "{}"}}}
	if _, err = s.client(t).GetAs(t.Context(), client.SummaryPath, nil, "text/csv"); err == nil ||
		!strings.Contains(err.Error(), "answers with application/json where text/csv was asked for") {
		t.Errorf("%v", err)
	}
}

func TestMeters(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{{status: 200, body: `{"meters":[{"name":"queries","events":["sql_execution"],"reference":"question","by":"reference","later":1}]}`}}}
	got, err := s.client(t).Meters(t.Context())
	if err != nil || len(got) != 1 || got[0].Name != "queries" || got[0].Events[0] != "sql_execution" || got[0].Reference != "question" {
		t.Errorf("%+v, %v", got, err)
	}
	if want := "http://daemon.test/prefix/api/v1/usage/meters"; s.seen[0].url != want {
		t.Errorf("URL %s, want %s", s.seen[0].url, want)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{{status: 200, body: `{"status":"reloaded"}`}, problem(500, "reload_failed", "")}}
	c := s.client(t)
	if err := c.Reload(t.Context()); err != nil || s.seen[0].method != "POST" || s.seen[0].url != "http://daemon.test/prefix/-/reload" {
		t.Errorf("%+v, %v", s.seen[0], err)
	}
	if _, refused := errors.AsType[*client.Problem](c.Reload(t.Context())); !refused || len(s.seen) != 2 {
		t.Errorf("%d requests, refused %v; want 2 and a problem", len(s.seen), refused)
	}
}

func TestNotModified(t *testing.T) {
	t.Parallel()
	s := &script{answers: []answer{{status: http.StatusNotModified}}}
	got, err := s.client(t).Get(t.Context(), client.SummaryPath, nil, `W/"1"`)
	if err != nil || got.Status != http.StatusNotModified || s.seen[0].header.Get("If-None-Match") != `W/"1"` {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, cfg := range []client.Config{
		{}, {URL: "localhost:8080"}, {URL: "ftp://x"}, {URL: "http://"}, {URL: "http://u:hunter2@x"}, {URL: "http://x/?a=b"}, {URL: "http://[::1"},
		{URL: "http://x", Token: "two words"}, {URL: "http://x", Token: "line\n"}, {URL: "http://x", Compression: "lz4"},
	} {
		_, err := client.New(cfg)
		if err == nil {
			t.Errorf("%+v was taken", cfg)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") || cfg.Token != "" && strings.Contains(err.Error(), cfg.Token) {
			t.Errorf("the error holds a secret: %v", err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	var received sync.Map
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		body.ReadFrom(r.Body)
		received.Store(body.String(), true)
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, accepted.body)
	}))
	defer srv.Close()
	c, err := client.New(client.Config{URL: srv.URL, Token: token, Compression: client.Zstd})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if err := c.Send(t.Context(), []client.Event{{Type: "a"}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	received.Range(func(any, any) bool { n++; return true })
	if n != 160 {
		t.Errorf("%d different bodies, want 160: every event has its own id", n)
	}
}
