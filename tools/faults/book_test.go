package faults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
)

// book is the sender's ledger. Every batch has a user of its own, so that the summary tells how often it was counted.
type book struct {
	// position returns how far a recording of the daemon's disk is; nil: there is none.
	position func() int

	mu      sync.Mutex
	batches []*batch
}

// batch is a batch and what became of the tries to send it.
type batch struct {
	user, eventType string
	events          int
	ids             bool // the events have ids of the client's
	accepted        int
	unknown         int
	refused         int
	// tries are the tries with their places in a recording.
	tries []try
}

// try is a try to send a batch.
type try struct {
	sentAt, answeredAt int // places in a recording
	status             int
}

// body is the batch as NDJSON.
func (x *batch) body() string {
	var text strings.Builder
	for i := range x.events {
		id := ""
		if x.ids {
			id = fmt.Sprintf(`"id":"%d",`, i)
		}
		fmt.Fprintf(&text, `{%s"user_id":%q,"event_type":%q,"metadata":{"question":"q %d"}}`+"\n", id, x.user, x.eventType, i%7)
	}
	return text.String()
}

// next adds a batch.
func (b *book) next(rng *rand.Rand) *batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := &batch{
		user: fmt.Sprintf("u%05d", len(b.batches)), eventType: fmt.Sprintf("type %d", rng.IntN(4)),
		events: []int{1, 1, 2, 7, 40}[rng.IntN(5)], ids: rng.IntN(2) == 0,
	}
	b.batches = append(b.batches, x)
	return x
}

// note writes down what a try to send a batch came to. status is 0 where no answer came.
func (b *book) note(x *batch, t try) {
	b.mu.Lock()
	defer b.mu.Unlock()
	x.tries = append(x.tries, t)
	switch {
	case t.status == http.StatusAccepted:
		x.accepted++
	case wasRefused(t.status):
		x.refused++
	default:
		x.unknown++
	}
}

// wasRefused says whether a status promises that nothing of the batch was accepted.
func wasRefused(status int) bool {
	return status == http.StatusServiceUnavailable || status == http.StatusUnauthorized || status == notSent
}

// at returns where a recording is now.
func (b *book) at() int {
	if b.position == nil {
		return 0
	}
	return b.position()
}

// acceptedTries returns how often each batch was accepted until now.
func (b *book) acceptedTries() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	var tries []int
	for _, x := range b.batches {
		tries = append(tries, x.accepted)
	}
	return tries
}

// doubt makes everything that was accepted since then unknown: the directory that had it is gone, the store may have counted it.
func (b *book) doubt(since []int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range b.batches {
		before := 0
		if i < len(since) {
			before = since[i]
		}
		x.unknown += x.accepted - before
		x.accepted = before
	}
}

// some returns a batch that was accepted, with ids, to be sent again; nil where there is none.
func (b *book) some(rng *rand.Rand) *batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range 10 {
		if len(b.batches) == 0 {
			return nil
		}
		if x := b.batches[rng.IntN(len(b.batches))]; x.ids && x.accepted > 0 {
			return x
		}
	}
	return nil
}

// copy returns a book that goes on by itself.
func (b *book) copy() *book {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &book{}
	for _, x := range b.batches {
		y := *x
		c.batches = append(c.batches, &y)
	}
	return c
}

// bounds are how many of the batch's events must and may be in a view where each try brought it once.
func (x *batch) bounds(once bool) (least, most uint64) {
	n := uint64(x.events)
	least, most = n*uint64(x.accepted), n*uint64(x.accepted+x.unknown)
	if once {
		least, most = min(least, n), min(most, n)
	}
	return least, most
}

// compare returns how many events are missing and how many too many, and what else is wrong.
func (b *book) compare(v *view) (missing, extra uint64, faults []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := map[string]*batch{}
	check := func(where string, x *batch, got uint64, once bool) {
		least, most := x.bounds(once)
		switch {
		case got < least:
			missing += least - got
		case got > most:
			extra += got - most
		case got%uint64(x.events) == 0:
			return
		}
		faults = append(faults, fmt.Sprintf("%s has %d of %s, want %d to %d: %+v", where, got, x.user, least, most, *x))
	}
	for _, x := range b.batches {
		known[x.user] = x
		check("the summary", x, v.Summary[x.eventType][x.user], x.ids)
		if v.Raw != nil {
			check("the raw tail", x, v.Raw[x.user], false)
		}
	}
	counted := map[string]uint64{}
	for eventType, users := range v.Summary {
		for user, n := range users {
			counted[eventType] += n
			if x := known[user]; x == nil || x.eventType != eventType {
				extra += n
				faults = append(faults, fmt.Sprintf("%d events of %s %s were never sent", n, eventType, user))
			}
		}
	}
	return missing, extra, append(faults, v.disagreements(counted)...)
}

// disagreements are where the ledger, the counters and the summary do not say the same.
func (v *view) disagreements(counted map[string]uint64) (faults []string) {
	l := v.Ledger.All
	if l.Accepted != l.Counted+l.Duplicates+l.Pending+l.Damaged {
		faults = append(faults, fmt.Sprintf("the ledger is out of balance: %+v", l))
	}
	if v.partial {
		return faults
	}
	var sum, raw uint64
	for eventType, n := range counted {
		sum += n
		if got := v.Counters[eventType]; got != n {
			faults = append(faults, fmt.Sprintf("usage_events_total of %s is %d, the summary has %d", eventType, got, n))
		}
	}
	for eventType, n := range v.Counters {
		if counted[eventType] == 0 && n > 0 {
			faults = append(faults, fmt.Sprintf("usage_events_total of %s is %d, the summary has none", eventType, n))
		}
	}
	for _, n := range v.Raw {
		raw += n
	}
	if l.Counted != sum {
		faults = append(faults, fmt.Sprintf("the ledger has %d counted, the summary %d", l.Counted, sum))
	}
	if v.Raw != nil && l.Accepted != raw+l.Damaged {
		faults = append(faults, fmt.Sprintf("the ledger has %d accepted, the raw tail %d", l.Accepted, raw))
	}
	return faults
}
