package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"usaged/tools/waittest"
)

// load is a group of senders that post to daemons which may die at any moment, and keep the ledger against which they are
// judged. Every request has a user of its own, so that the summary tells how often it was counted.
type load struct {
	tb      testing.TB
	http    *http.Client
	targets []*target
	senders []*sender
	types   []string
	pace    time.Duration // between the requests of a sender; 0: none

	requests atomic.Int64 // that were answered 202
	times    times
	stopping atomic.Bool
	giveUp   context.Context
	done     sync.WaitGroup
}

// target is a daemon that the senders post to. With several, each try goes to one of them.
type target struct {
	producer string // the token
	url      atomic.Pointer[string]
	acked    atomic.Int64 // events in requests that it answered 202
}

// reach tells the senders where the daemon is now.
func (t *target) reach(url string) { t.url.Store(&url) }

// times are how long requests took that were answered 202.
type times struct {
	mu   sync.Mutex
	took []time.Duration
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took = append(t.took, d)
}

// take returns the times since the last call, in order of size.
func (t *times) take() []time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	took := t.took
	t.took = nil
	slices.Sort(took)
	return took
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
	both   bool // to every daemon at the same time
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
	l := newLoad(t, d)
	l.start(seed, n, modes)
	return l
}

// newLoad returns a load that is not started yet.
func newLoad(t testing.TB, daemons ...*instance) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	l := &load{
		tb: t, http: &http.Client{Transport: transport}, giveUp: ctx,
		types: []string{"sql_execution", "load a", "load b", "load c", "load d"},
	}
	for _, d := range daemons {
		to := &target{producer: d.token("producer")}
		to.reach(d.url)
		l.targets = append(l.targets, to)
	}
	t.Cleanup(func() {
		cancel()
		l.stop()
		transport.CloseIdleConnections()
	})
	return l
}

// start starts n senders of each mode. After a stop it starts further ones.
func (l *load) start(seed uint64, n int, modes []mode) {
	l.stopping.Store(false)
	for range n {
		for _, m := range modes {
			i := len(l.senders)
			s := &sender{name: fmt.Sprintf("%s-%d", m.name, i), mode: m, load: l, rng: rand.New(rand.NewPCG(seed, uint64(i)))}
			l.senders = append(l.senders, s)
			l.done.Go(s.run)
		}
	}
}

// reach tells the senders where the only daemon is now.
func (l *load) reach(url string) { l.targets[0].reach(url) }

// stop lets every sender finish what it is about, and waits.
func (l *load) stop() {
	l.stopping.Store(true)
	l.done.Wait()
}

// until waits for more acknowledged requests.
func (l *load) until(more int64) {
	l.tb.Helper()
	goal := l.requests.Load() + more
	eventually(l.tb, "acknowledged requests", func() error {
		if n := l.requests.Load(); n < goal {
			return fmt.Errorf("%d, want %d", n, goal)
		}
		return nil
	})
}

func (s *sender) run() {
	pace := time.NewTicker(cmp.Or(s.load.pace, time.Hour))
	defer pace.Stop()
	var body []byte
	var last *sent
	for !s.load.stopping.Load() && s.load.giveUp.Err() == nil {
		if last == nil || !s.mode.resend || s.rng.IntN(4) > 0 {
			last, body = s.next()
			s.records = append(s.records, last)
		}
		if s.mode.both {
			s.sendToAll(last, body)
		} else {
			s.send(last, body, func() *target { return s.load.targets[s.rng.IntN(len(s.load.targets))] })
		}
		if s.load.pace > 0 {
			<-pace.C
		}
	}
}

// sendToAll sends one request to every daemon at the same time.
func (s *sender) sendToAll(r *sent, body []byte) {
	tries := make([]sent, len(s.load.targets))
	var group sync.WaitGroup
	for i, to := range s.load.targets {
		tries[i] = sent{events: r.events, ids: r.ids}
		group.Go(func() { s.send(&tries[i], body, func() *target { return to }) })
	}
	group.Wait()
	for _, t := range tries {
		r.acked, r.refused, r.unknown = r.acked+t.acked, r.refused+t.refused, r.unknown+t.unknown
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
func (s *sender) send(r *sent, body []byte, choose func() *target) {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for s.load.giveUp.Err() == nil {
		to := choose()
		status := s.try(to, body)
		switch {
		case status == http.StatusAccepted:
			r.acked++
			to.acked.Add(int64(r.events))
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
func (s *sender) try(to *target, body []byte) int {
	ctx, cancel := waittest.Context(s.load.giveUp)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, *to.url.Load()+eventsPath, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+to.producer)
	switch {
	case s.mode.events == 0 || s.mode.array:
		req.Header.Set("Content-Type", "application/json")
	default:
		req.Header.Set("Content-Type", "application/x-ndjson")
	}
	if s.mode.gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	began := time.Now()
	resp, err := s.load.http.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body) // the status is the promise
	if resp.StatusCode == http.StatusAccepted {
		s.load.times.add(time.Since(began))
	}
	return resp.StatusCode
}

// judge compares the ledger of the senders with what the daemons have counted, when the senders have stopped.
func (l *load) judge(f *figures) {
	l.tb.Helper()
	if err := l.difference(f); err != nil {
		l.tb.Error(err)
	}
}

// difference returns an error where the ledger of the senders and the figures are not the same.
func (l *load) difference(f *figures) error {
	known := map[string]*sent{}
	var errs []error
	for _, s := range l.senders {
		for _, r := range s.records {
			known[r.user] = r
			errs = append(errs, r.judge(f.Summary[r.eventType][r.user]))
		}
	}
	counted := map[string]uint64{}
	for eventType, users := range f.Summary {
		for user, n := range users {
			counted[eventType] += n
			if r := known[user]; r == nil || r.eventType != eventType {
				errs = append(errs, fmt.Errorf("%d events of type %q and user %q were counted and never sent", n, eventType, user))
			}
		}
	}
	for eventType, n := range counted {
		if got := f.Ledger.Types[eventType].Counted; got != n {
			errs = append(errs, fmt.Errorf("type %q: counted %d in the ledger, %d in the summary", eventType, got, n))
		}
		if got := f.Counters[eventType]; got != n {
			errs = append(errs, fmt.Errorf("usage_events_total of type %q is %d, the summary has %d", eventType, got, n))
		}
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if more := len(errs) - maxDifferences; more > 0 {
		errs = append(errs[:maxDifferences], fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}

// maxDifferences is how many are worth to be read.
const maxDifferences = 20

// judge returns an error where a request was not counted as often as its answers promise.
func (r *sent) judge(counted uint64) error {
	n := uint64(r.events)
	least, most := n*uint64(r.acked), n*uint64(r.acked+r.unknown)
	if r.ids {
		least, most = min(least, n), min(most, n)
	}
	if counted < least || counted > most || counted%n != 0 {
		return fmt.Errorf("user %q: %d events counted, want %d to %d in whole batches of %d (%+v)", r.user, counted, least, most, n, *r)
	}
	return nil
}
