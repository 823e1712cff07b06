package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	latencyDigits  = 3
	latencyMaximum = int64(time.Minute / time.Microsecond)
)

// load sends events over a number of connections until its time or its events are used up.
type load struct {
	dial        dialer
	shape       shape
	connections int
	duration    time.Duration
	events      int64   // 0: no limit
	rate        float64 // events per second, 0: as fast as answers come

	claimed atomic.Int64
}

// tally is what one connection has seen, or all of them.
type tally struct {
	requests uint64 // answered with 202
	events   uint64
	errors   map[string]uint64 // by status, or "connection"
	sample   string            // the text of one error
	latency  *hdrhistogram.Histogram
}

func newTally() *tally {
	return &tally{errors: map[string]uint64{}, latency: hdrhistogram.New(1, latencyMaximum, latencyDigits)}
}

func (t *tally) merge(other *tally) {
	t.requests += other.requests
	t.events += other.events
	for name, n := range other.errors {
		t.errors[name] += n
	}
	if t.sample == "" {
		t.sample = other.sample
	}
	t.latency.Merge(other.latency)
}

func (t *tally) fail(name, text string) {
	t.errors[name]++
	if t.sample == "" {
		t.sample = text
	}
}

// run connects everywhere first, then sends. The time is that from the first request to the last answer.
func (l *load) run(ctx context.Context) (*tally, time.Duration, error) {
	conns := make([]*loadConn, l.connections)
	for i := range conns {
		c, err := l.dial.open(ctx)
		if err != nil {
			return nil, 0, err
		}
		defer c.close()
		conns[i] = c
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tallies := make([]*tally, len(conns))
	start := time.Now()
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			var err error
			if tallies[i], err = l.drive(ctx, i, c, start); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if err := context.Cause(ctx); err != nil {
		return nil, 0, err
	}
	total := newTally()
	for _, t := range tallies {
		total.merge(t)
	}
	return total, elapsed, nil
}

// drive sends over one connection.
func (l *load) drive(ctx context.Context, index int, c *loadConn, start time.Time) (*tally, error) {
	t := newTally()
	rng := rand.New(rand.NewPCG(uint64(index), uint64(start.UnixNano())))
	requests := l.shape.requests(index)
	for k := int64(0); ; k++ {
		due := l.due(start, index, k)
		if due.Sub(start) >= l.duration || time.Since(start) >= l.duration || !l.claim() {
			return t, nil
		}
		if err := sleepUntil(ctx, due); err != nil {
			return t, err
		}
		req := requests[int(k)%len(requests)]
		req.refresh(rng, &l.shape)
		began := time.Now()
		if l.rate > 0 {
			began = due
		}
		if err := c.post(req.wire); err != nil {
			if ctx.Err() != nil {
				return t, context.Cause(ctx)
			}
			t.fail("connection", err.Error())
			if err := c.reopen(ctx, l.dial); err != nil {
				return t, err
			}
			continue
		}
		if err := l.count(t, c, time.Since(began)); err != nil {
			return t, err
		}
	}
}

// due is when a connection's k-th request should go out. The connections take turns.
func (l *load) due(start time.Time, index int, k int64) time.Time {
	if l.rate <= 0 {
		return time.Time{}
	}
	turn := float64(k)*float64(l.connections) + float64(index)
	return start.Add(time.Duration(turn * float64(l.shape.batch) / l.rate * float64(time.Second)))
}

// claim takes a batch from the number of events that are still to be sent.
func (l *load) claim() bool {
	return l.events == 0 || l.claimed.Add(int64(l.shape.batch))-int64(l.shape.batch) < l.events
}

func (l *load) count(t *tally, c *loadConn, took time.Duration) error {
	switch c.status {
	case http.StatusAccepted:
		t.requests++
		t.events += uint64(l.shape.batch)
		return t.latency.RecordValue(min(max(took.Microseconds(), 1), latencyMaximum))
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return fmt.Errorf("the daemon answered %d: %s", c.status, c.excerpt())
	}
	t.fail("status "+strconv.Itoa(c.status), c.excerpt())
	return nil
}

// sleepUntil returns at once where the time has passed.
func sleepUntil(ctx context.Context, due time.Time) error {
	pause := time.Until(due)
	if pause <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// latency is percentiles in milliseconds.
type latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

func latencyOf(h *hdrhistogram.Histogram) latency {
	at := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1e3 }
	return latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1e3}
}

func (l latency) String() string {
	return fmt.Sprintf("p50 %.2f, p90 %.2f, p99 %.2f, p99.9 %.2f, max %.2f", l.P50, l.P90, l.P99, l.P999, l.Max)
}

// mapKeys saves naming the map's types.
func mapKeys[V any](m map[string]V) func(yield func(string) bool) { return maps.Keys(m) }
