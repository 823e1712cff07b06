package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator"
	"usaged/aggregator/meter"
	"usaged/aggregator/store/storetest"
	"usaged/api"
)

// tailRig is an API over a real journal, served on a connection.
type tailRig struct {
	*rig
	t      testing.TB
	server *httptest.Server
	api    *api.API
}

func newTailRig(t testing.TB, edit ...func(*api.Config)) *tailRig {
	t.Helper()
	now := func() time.Time { return noon }
	agg, err := aggregator.Open(aggregator.Config{Dir: t.TempDir(), Store: storetest.NewMemory(1), Meters: meter.Builtin(), Retention: retention, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agg.Close() })
	r := newRig(t, append(edit, func(c *api.Config) { c.Accepter, c.Tails = agg, agg })...)
	handler := r.handler.(*api.API)
	tr := &tailRig{rig: r, t: t, server: httptest.NewUnstartedServer(handler), api: handler}
	tr.server.Config = api.Server(handler, r.cfg.Logger)
	tr.server.Config.ReadTimeout = 50 * time.Millisecond // streams must outlive it
	tr.server.Start()
	t.Cleanup(func() {
		handler.EndStreams()
		tr.server.Close()
	})
	return tr
}

// post accepts events of a type by a user, each numbered.
func (r *tailRig) post(eventType, user string, from, n int) {
	r.t.Helper()
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, `{"event_type":%q,"user_id":%q,"metadata":{"n":"%d"}}`+"\n", eventType, user, from+i)
	}
	if rec := r.call("POST", events, "producer", lines.String(), "Content-Type", "application/x-ndjson"); rec.Code != 202 {
		r.t.Fatalf("POST: %d %s", rec.Code, rec.Body)
	}
}

// line is a line of the stream.
type line struct {
	Cursor     string            `json:"cursor"`
	AcceptedAt time.Time         `json:"accepted_at"`
	Token      string            `json:"token"`
	ID         string            `json:"id"`
	UserID     string            `json:"user_id"`
	Type       string            `json:"event_type"`
	Metadata   map[string]string `json:"metadata"`
	Source     string            `json:"source"`
	CreatedAt  time.Time         `json:"created_at"`
	Missing    uint64            `json:"missing"`
	End        bool              `json:"end"`
}

// stream is an open answer.
type stream struct {
	t    testing.TB
	resp *http.Response
	scan *bufio.Scanner
	stop context.CancelFunc
}

func (r *tailRig) open(query string, header ...string) *stream {
	r.t.Helper()
	ctx, stop := context.WithTimeout(r.t.Context(), 30*time.Second)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.server.URL+events+"?"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tokenOf("admin"))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.server.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		stop()
		resp.Body.Close()
	})
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		r.t.Fatalf("GET %s: %d %s", query, resp.StatusCode, body)
	}
	return &stream{t: r.t, resp: resp, scan: bufio.NewScanner(resp.Body), stop: stop}
}

// next returns the next line that is not empty, nil at the end.
func (s *stream) next() *line {
	s.t.Helper()
	for s.scan.Scan() {
		if len(s.scan.Bytes()) == 0 {
			continue
		}
		l := &line{}
		dec := json.NewDecoder(bytes.NewReader(s.scan.Bytes()))
		dec.DisallowUnknownFields()
		if err := dec.Decode(l); err != nil {
			s.t.Fatalf("%v in %s", err, s.scan.Bytes())
		}
		return l
	}
	if err := s.scan.Err(); err != nil {
		s.t.Fatal(err)
	}
	return nil
}

// numbers reads n events, or all to the end where n is negative, and returns their numbers and the last cursor.
func (s *stream) numbers(n int) (list []string, cursor string) {
	s.t.Helper()
	for len(list) != n {
		l := s.next()
		if l == nil {
			break
		}
		if l.Type != "" {
			list = append(list, l.Metadata["n"])
		}
		cursor = l.Cursor
	}
	return list, cursor
}

func numbered(from, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(from+i))
	}
	return list
}

func TestTailShowsEveryColumn(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	body := `{"id":"x-1","user_id":"ann","event_type":"a","metadata":{"k":"ü\n"},"source":"s","created_at":"2026-11-22T08:00:00.5Z"}`
	for range 2 { // a duplicate is shown like any other
		if rec := r.call("POST", events, "producer", body); rec.Code != 202 {
			t.Fatal(rec.Body)
		}
	}
	s := r.open("")
	want := line{
		AcceptedAt: noon, Token: "the-producer", ID: "x-1", UserID: "ann", Type: "a", Metadata: map[string]string{"k": "ü\n"}, Source: "s",
		CreatedAt: time.Date(2026, 11, 22, 8, 0, 0, 5e8, time.UTC),
	}
	for range 2 {
		got := s.next()
		if got == nil {
			t.Fatal("an event is missing")
		}
		got.Cursor = ""
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if l := s.next(); l != nil {
		t.Errorf("one more: %+v", l)
	}
	if got := s.resp.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("Content-Type %q", got)
	}
}

// TestTailIsWhole holds that an answer without a limit is not cut short.
func TestTailIsWhole(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	const n = 3 * 5000
	for i := range 3 {
		r.post("a", "ann", 5000*i, 5000)
	}
	if got, _ := r.open("").numbers(-1); !cmp.Equal(got, numbered(0, n)) {
		t.Errorf("%d events, want %d in order", len(got), n)
	}
}

// TestTailResumesBehindEveryEvent resumes with the cursor of each event, in the middle of records and at their ends.
func TestTailResumesBehindEveryEvent(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	for i := range 4 {
		r.post("a", "ann", 5*i, 5)
	}
	s := r.open("")
	for i := range 20 {
		l := s.next()
		got, _ := r.open("limit=3&after=" + url.QueryEscape(l.Cursor)).numbers(-1)
		if diff := cmp.Diff(numbered(i+1, min(3, 19-i)), got); diff != "" {
			t.Errorf("behind %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestTailFilters(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	r.post("a", "ann", 0, 3)
	r.post("b", "ann", 3, 3)
	r.post("a", "bob", 6, 3)
	for query, want := range map[string][]string{
		"event_type=a":                      {"0", "1", "2", "6", "7", "8"},
		"user_id=ann":                       {"0", "1", "2", "3", "4", "5"},
		"event_type=a&user_id=bob":          {"6", "7", "8"},
		"event_type=c":                      nil,
		"limit=2":                           {"0", "1"},
		"since=2026-11-23T13:00:00%2B01:00": numbered(0, 9),
		"since=2026-11-23T13:00:00+01:00":   numbered(0, 9), // a + that was not escaped
		"since=0s":                          numbered(0, 9), // the clock stands still
	} {
		if got, _ := r.open(query).numbers(-1); !cmp.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	// A filter that matches nothing moves on with progress: all that is behind it is found by its cursor.
	_, cursor := r.open("event_type=c&progress=true").numbers(-1)
	r.post("c", "ann", 9, 1)
	if got, _ := r.open("after=" + cursor).numbers(-1); !cmp.Equal(got, []string{"9"}) {
		t.Errorf("behind the progress line: %v, want 9", got)
	}
	for query, want := range map[string]bool{"progress=true": true, "progress=true&limit=2": false} {
		s := r.open(query)
		end := false
		for l := s.next(); l != nil; l = s.next() {
			end = l.End
		}
		if end != want {
			t.Errorf("%s: end %v, want %v", query, end, want)
		}
	}
}

// TestTailFollows holds that events come while the answer is open, to several streams, compressed too, and that the stop of
// the daemon ends them behind a whole line.
func TestTailFollows(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	r.post("a", "ann", 0, 2)
	streams := []*stream{r.open("follow=true"), r.open("follow=true&progress=true"), r.open("follow=true", "Accept-Encoding", "identity")}
	for i := range 5 {
		if i > 0 {
			r.post("a", "ann", 2*i, 2)
		}
		for k, s := range streams {
			if got, _ := s.numbers(2); !cmp.Equal(got, numbered(2*i, 2)) {
				t.Fatalf("stream %d: %v, want %v", k, got, numbered(2*i, 2))
			}
		}
	}
	r.api.EndStreams()
	for k, s := range streams {
		if got, _ := s.numbers(-1); len(got) > 0 {
			t.Errorf("stream %d ends with %v", k, got)
		}
	}
	if got, _ := r.open("follow=true").numbers(-1); len(got) > 10 {
		t.Errorf("a stream that begins after the stop has %d events", len(got))
	}
}

// TestTailFollowEndsAtItsLimit reads less than there is.
func TestTailFollowEndsAtItsLimit(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	s := r.open("follow=true&limit=3&since=0s")
	r.post("a", "ann", 0, 5)
	if got, _ := s.numbers(-1); !cmp.Equal(got, numbered(0, 3)) {
		t.Errorf("%v, want 0 to 2", got)
	}
}

// TestTailCompresses reads a flushed line out of an answer that is still open.
func TestTailCompresses(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	r.post("a", "ann", 0, 1)
	s := r.open("follow=true") // net/http asks for gzip, and takes it apart as it comes
	if !s.resp.Uncompressed {
		t.Error("the answer is not compressed")
	}
	if got, _ := s.numbers(1); !cmp.Equal(got, numbered(0, 1)) {
		t.Errorf("%v", got)
	}
}

// TestTailStreamsAreBounded opens as many as there may be, and one more: of one token, and of all.
func TestTailStreamsAreBounded(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, quotas, code string
		streams, status    int
	}{
		{"of one token", "- {role: admin, concurrent_tails: 3}\n", "quota_exceeded", 3, http.StatusTooManyRequests},
		{"of all", "- {role: admin, concurrent_tails: 0}\n", "overloaded", 64, http.StatusServiceUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newTailRig(t, withQuotas(t, tc.quotas))
			first := r.open("follow=true")
			for range tc.streams - 1 {
				r.open("follow=true")
			}
			rec := r.call("GET", events, "admin", "")
			if rec.Code != tc.status || rec.Header().Get("Retry-After") == "" || !strings.Contains(rec.Body.String(), tc.code) {
				t.Errorf("one more: %d %s", rec.Code, rec.Body)
			}
			if text := r.metricsText(); !strings.Contains(text, fmt.Sprintf("usaged_tail_streams %d\n", tc.streams)) {
				t.Errorf("metrics:\n%s", text)
			}
			first.stop()
			for range 1000 { // the server notices
				if rec = r.call("GET", events, "admin", ""); rec.Code == http.StatusOK {
					return
				}
				<-time.After(5 * time.Millisecond)
			}
			t.Errorf("after one has gone: %d %s", rec.Code, rec.Body)
		})
	}
}

func TestTailHead(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	r.post("a", "ann", 0, 1)
	rec := r.call("HEAD", events+"?follow=true", "admin", "")
	if rec.Code != http.StatusOK || rec.Body.Len() > 0 || rec.Header().Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%d %v %q", rec.Code, rec.Header(), rec.Body)
	}
}
