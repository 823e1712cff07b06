package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"usaged/client"
)

const (
	// dryAfter is how long a replica may be silent before the others no longer wait for it.
	dryAfter = time.Second
	// reorderDelay is how old an event is before it overtakes a replica that is silent: what that one has accepted before is
	// here by then.
	reorderDelay = 250 * time.Millisecond
)

// tailItem is an event, progress, a notice or the error with which a replica ended.
type tailItem struct {
	client.Accepted
	received time.Time
	notice   string
	err      error
}

// replica is a daemon whose events are read.
type replica struct {
	url    string
	key    string // in the cursor file
	client *client.Client
	query  client.TailQuery
	items  chan tailItem

	// The merger owns the fields below.

	head    *tailItem
	dry     time.Time // since when there is no head
	done    bool
	missing uint64
}

// read passes on what the replica has, until that ends or ctx does.
func (r *replica) read(ctx context.Context, wake chan<- struct{}) {
	pass := func(it tailItem) bool {
		it.received = time.Now()
		select {
		case r.items <- it:
		case <-ctx.Done():
			return false
		}
		poke(wake)
		return true
	}
	broken := false
	r.query.Notify = func(err error, _ time.Duration) {
		if !broken { // once for each outage
			pass(tailItem{notice: fmt.Sprintf("%s: %v; trying again", r.url, err)})
		}
		broken = true
	}
	for a, err := range r.client.Tail(ctx, r.query) {
		if err != nil {
			pass(tailItem{err: err})
			break
		}
		broken = false
		it := tailItem{Accepted: *a}
		it.Line = bytes.Clone(a.Line)
		if !pass(it) {
			break
		}
	}
	close(r.items)
	poke(wake)
}

func poke(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default: // it is awake
	}
}

// fill looks for the next item without waiting.
func (r *replica) fill() {
	if r.head != nil || r.done {
		return
	}
	select {
	case it, ok := <-r.items:
		if !ok {
			r.done = true
			return
		}
		r.head = &it
	default:
	}
}

// take removes the head.
func (r *replica) take() *tailItem {
	it := r.head
	r.head, r.dry = nil, time.Now()
	return it
}

// merger brings the items of several replicas into the order of acceptance. Without following that is exact, as far as the
// replicas' clocks agree. With it, a replica that is silent is waited for only so long.
type merger struct {
	replicas []*replica
	follow   bool
	wake     chan struct{}
}

func newMerger(replicas []*replica, follow bool) *merger {
	for _, r := range replicas {
		r.dry = time.Now()
	}
	return &merger{replicas: replicas, follow: follow, wake: make(chan struct{}, 1)}
}

// next returns the replica whose head is to go out next, nil when all have ended. Before it waits it calls idle, which returns
// when it wants to be called again, the zero time for never.
func (m *merger) next(ctx context.Context, idle func() (time.Time, error)) (*replica, error) {
	for {
		best, until, open := m.choose(time.Now())
		if best != nil && until.IsZero() {
			return best, nil
		}
		if !open {
			return nil, nil
		}
		again, err := idle()
		if err != nil {
			return nil, err
		}
		if until.IsZero() || !again.IsZero() && again.Before(until) {
			until = again
		}
		if err := m.wait(ctx, until); err != nil {
			return nil, err
		}
	}
}

// choose returns the earliest head and how long it has to wait, the zero time for not at all. open says that there is or may
// be more.
func (m *merger) choose(now time.Time) (best *replica, until time.Time, open bool) {
	for _, r := range m.replicas {
		r.fill()
		open = open || !r.done
		if r.head != nil && (best == nil || r.head.AcceptedAt.Before(best.head.AcceptedAt)) {
			best = r
		}
	}
	if best == nil || !best.head.IsEvent() { // what is no event has no place in the order but that of its replica
		return best, until, open
	}
	for _, r := range m.replicas {
		if r.head != nil || r.done {
			continue
		}
		if !m.follow {
			return nil, time.Time{}, open
		}
		due := best.head.received.Add(reorderDelay)
		if byAge := best.head.AcceptedAt.Add(reorderDelay); byAge.Before(due) {
			due = byAge
		}
		if dry := r.dry.Add(dryAfter); dry.After(due) {
			due = dry
		}
		if due.After(now) && due.After(until) {
			until = due
		}
	}
	return best, until, open
}

// wait waits for an item, or until a time where that is not zero.
func (m *merger) wait(ctx context.Context, until time.Time) error {
	var timeout <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-m.wake:
	case <-timeout:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
