package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is a group of senders that post to a daemon which may die at any moment, and keep the ledger against which it is
// judged. Every request has a user of its own, so that the summary tells how often it was counted.
type load struct {
	tb       testing.TB
	http     *http.Client
	url      atomic.Pointer[string]
	producer string
	senders  []*sender
	types    []string

	acked    atomic.Int64 // events in requests that were answered 202, at least
	requests atomic.Int64 // that were answered 202
	stopping atomic.Bool
	giveUp   context.Context
	done     sync.WaitGroup
}

// sent is the ledger's line about one request, which may have been sent several times.
type sent struct {
	user, eventType string
	events          int
	ids             bool // from the client
	// What became of the tries: answered 202, refused for good, no answer.
	acked, refused, unknown int
}

// sender posts one request after the other.
type sender struct {
	name    string
	mode    mode
	rng     *rand.Rand
	load    *load
	records []*sent
}

// mode is how a sender sends.
type mode struct {
	name   string
	events int  // in a batch at most; 0: single events
	array  bool // not NDJSON
	ids    bool
	retry  bool // until an answer comes
	gzip   bool
	resend bool // now and then a request that was accepted already
	bad    bool // must be refused
}

var modes = []mode{
	{name: "single-ids", ids: true, retry: true},
	{name: "batch-ids", events: 60, ids: true, retry: true, resend: true},
	{name: "gzip-ids", events: 200, ids: true, retry: true, resend: true, gzip: true},
	{name: "single-once"},
	{name: "array-once", events: 40, array: true},
	{name: "single-retry", retry: true},
	{name: "batch-retry", events: 40, retry: true},
	{name: "bad", events: 20, bad: true, retry: true},
}

// startLoad starts one sender of each mode, times n.
func startLoad(t testing.TB, d *instance, seed uint64, n int) *load {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	l := &load{
		tb: t, http: &http.Client{Transport: transport, Timeout: patience}, producer: d.token("producer"), giveUp: ctx,
		types: []string{"sql_execution", "load a", "load b", "load c", "load d"},
	}
	l.reach(d.url)
	for i := range n {
		for k, m := range modes {
			s := &sender{
				name: fmt.Sprintf("%s-%d", m.name, i), mode: m, load: l, rng: rand.New(rand.NewPCG(seed, uint64(i*len(modes)+k))),
			}
			l.senders = append(l.senders, s)
			l.done.Go(s.run)
		}
	}
	t.Cleanup(func() {
		cancel()
		l.stop()
		transport.CloseIdleConnections()
	})
	return l
}

// reach tells the senders where the daemon is now.
func (l *load) reach(url string) { l.url.Store(&url) }

// stop lets every sender finish what it is about, and waits.
func (l *load) stop() {
	l.stopping.Store(true)
	l.done.Wait()
}

func (s *sender) run() {
	var body []byte
	var last *sent
	for !s.load.stopping.Load() && s.load.giveUp.Err() == nil {
		if last == nil || !s.mode.resend || s.rng.IntN(4) > 0 {
			last, body = s.next()
			s.records = append(s.records, last)
		}
		s.send(last, body)
	}
}

// next makes a request.
func (s *sender) next() (*sent, []byte) {
	r := &sent{
		user: fmt.Sprintf("%s-%06d", s.name, len(s.records)), ids: s.mode.ids,
		eventType: s.load.types[s.rng.IntN(len(s.load.types))], events: 1,
	}
	if s.mode.events > 0 {
		r.events = 1 + s.rng.IntN(s.mode.events)
	}
	var lines []string
	bad := s.rng.IntN(r.events)
	for i := range r.events {
		id, extra := "", ""
		if s.mode.ids {
			id = fmt.Sprintf(`"id":"%d",`, i)
		}
		if s.mode.bad && i == bad {
			extra = `,"metadata":{"rows":7}`
		}
		lines = append(lines, fmt.Sprintf(`{%s"event_type":%q,"user_id":%q%s}`, id, r.eventType, r.user, extra))
	}
	text := strings.Join(lines, "\n")
	if s.mode.array {
		text = "[" + strings.Join(lines, ",") + "]"
	}
	if !s.mode.gzip {
		return r, []byte(text)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := io.WriteString(w, text)
	if err := w.Close(); err != nil {
		panic(err)
	}
	if err != nil {
		panic(err)
	}
	return r, packed.Bytes()
}

// send tries until there is an answer that lasts, or once where the mode does not retry.
func (s *sender) send(r *sent, body []byte) {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for s.load.giveUp.Err() == nil {
		status := s.try(body)
		switch {
		case status == http.StatusAccepted:
			r.acked++
			if r.acked == 1 || !r.ids {
				s.load.acked.Add(int64(r.events))
			}
			s.load.requests.Add(1)
			return
		case status == 0:
			r.unknown++
		case status == http.StatusServiceUnavailable && s.mode.retry:
			r.refused++
		default:
			r.refused++
			if want := http.StatusUnprocessableEntity; status != want || !s.mode.bad {
				s.load.tb.Errorf("%s: status %d", s.name, status)
			}
			return
		}
		if !s.mode.retry {
			return
		}
		<-tick.C
	}
}

// try sends once and returns the status, 0 where none came.
func (s *sender) try(body []byte) int {
	req, err := http.NewRequestWithContext(s.load.giveUp, http.MethodPost, *s.load.url.Load()+eventsPath, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.load.producer)
	switch {
	case s.mode.events == 0 || s.mode.array:
		req.Header.Set("Content-Type", "application/json")
	default:
		req.Header.Set("Content-Type", "application/x-ndjson")
	}
	if s.mode.gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := s.load.http.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // the status is the promise
	return resp.StatusCode
}

// judge compares the ledger of the senders with what the daemon has counted, when the senders have stopped.
func (l *load) judge(f *figures) {
	l.tb.Helper()
	known := map[string]*sent{}
	for _, s := range l.senders {
		for _, r := range s.records {
			known[r.user] = r
			l.judgeRequest(r, f.Summary[r.eventType][r.user])
		}
	}
	counted := map[string]uint64{}
	for eventType, users := range f.Summary {
		for user, n := range users {
			counted[eventType] += n
			if r := known[user]; r == nil || r.eventType != eventType {
				l.tb.Errorf("%d events of type %q and user %q were counted and never sent", n, eventType, user)
			}
		}
	}
	for eventType, n := range counted {
		if got := f.Ledger.Types[eventType].Counted; got != n {
			l.tb.Errorf("type %q: counted %d in the ledger, %d in the summary", eventType, got, n)
		}
		if got := f.Counters[eventType]; got != n {
			l.tb.Errorf("usage_events_total of type %q is %d, the summary has %d", eventType, got, n)
		}
	}
}

// judgeRequest says whether a request was counted as often as its answers promise.
func (l *load) judgeRequest(r *sent, counted uint64) {
	l.tb.Helper()
	n := uint64(r.events)
	least, most := n*uint64(r.acked), n*uint64(r.acked+r.unknown)
	if r.ids {
		least, most = min(least, n), min(most, n)
	}
	if counted < least || counted > most || counted%n != 0 {
		l.tb.Errorf("user %q: %d events counted, want %d to %d in whole batches of %d (%+v)", r.user, counted, least, most, n, *r)
	}
}
