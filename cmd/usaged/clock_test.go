package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// clockAnswer is what the daemon says of the time.
type clockAnswer struct {
	Time, Wall, Deletion time.Time
	JumpSeconds          float64 `json:"jump_seconds"`
}

// awaitJump waits until the daemon has seen that its wall clock is off by so much, or is right.
func (d *instance) awaitJump(want time.Duration) {
	d.tb.Helper()
	eventually(d.tb, "the daemon's wall clock", func() error {
		if got := d.metric("usaged_clock_jump_seconds"); got < want.Seconds()-60 || got > want.Seconds()+60 {
			return fmt.Errorf("it has jumped by %v s, want %v", got, want.Seconds())
		}
		return nil
	})
}

// history posts events of the last 20 days, and ids of now, and returns the lines with the ids.
func (d *instance) history() (withIDs []string) {
	d.tb.Helper()
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf(`{"id":"old %d","event_type":"a","user_id":"u%d","created_at":%q}`, i, i%7,
			time.Now().AddDate(0, 0, -i%20).UTC().Format(time.RFC3339)))
	}
	d.post(lines...)
	for i := range 20 {
		withIDs = append(withIDs, fmt.Sprintf(`{"id":"%d","event_type":"b","user_id":"ann"}`, i))
	}
	d.post(withIDs...)
	d.settle()
	return withIDs
}

// expectKept checks that all events of history are there and that n more are.
func (d *instance) expectKept(when string, n uint64) {
	d.tb.Helper()
	var sum uint64
	for _, users := range d.summary(30) {
		for _, count := range users {
			sum += count
		}
	}
	if sum != 220+n {
		d.tb.Errorf("%s: %d events are in the summary, want %d", when, sum, 220+n)
	}
	raw := strings.Count(string(d.get(eventsPath, "admin")), "\n")
	if accepted := d.ledger().All.Accepted; uint64(raw) != accepted {
		d.tb.Errorf("%s: %d raw events are in the journal of %d that were accepted", when, raw, accepted)
	}
}

// TestWallClockJumps sets the wall clock while the daemon runs, restarts it meanwhile, and sets the clock right again.
func TestWallClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{60 * 24 * time.Hour, 4 * 24 * time.Hour, -24 * time.Hour} {
		t.Run(fmt.Sprintf("jump=%v", jump), func(t *testing.T) {
			onEachStore(t, func(t *testing.T, s testStore) {
				d := s.instance(t, "--prometheus.enabled=false")
				d.moveClocks(0, 0)
				d.start()
				ids := d.history()
				d.stop() // so that segments are sealed
				d.start()
				d.settle()
				d.moveClocks(0, jump)
				d.awaitJump(jump)
				d.post(`{"event_type":"c","user_id":"during"}`)
				d.post(ids...)
				if all := d.settle().All; all.Counted != 221 || all.Duplicates != 20 {
					t.Errorf("during the jump: ledger %+v, want 221 counted and 20 duplicates", all)
				}
				d.expectKept("during the jump", 1)
				if !strings.Contains(d.log.String(), "the wall clock has jumped") {
					t.Error("the log says nothing of the jump")
				}
				d.kill()
				d.start()
				d.awaitJump(jump)
				d.post(`{"event_type":"c","user_id":"after a restart"}`)
				d.settle()
				d.expectKept("after a restart in the jump", 2)
				d.moveClocks(0, 0)
				d.awaitJump(0)
				d.post(ids...)
				if all := d.settle().All; all.Counted != 222 || all.Duplicates != 40 {
					t.Errorf("back: ledger %+v, want 222 counted and 40 duplicates", all)
				}
				d.expectKept("back", 2)
				for _, line := range strings.Split(strings.TrimSpace(string(d.get(eventsPath, "admin"))), "\n") {
					var e struct {
						AcceptedAt time.Time `json:"accepted_at"`
					}
					if err := json.Unmarshal([]byte(line), &e); err != nil {
						t.Fatal(err)
					}
					if off := time.Since(e.AcceptedAt).Abs(); off > time.Hour {
						t.Errorf("an event is stamped %v, which is %v from now", e.AcceptedAt, off)
					}
				}
			})
		})
	}
}

// TestAcceptedWallClock confirms a wall clock that has jumped: then it rules, over a restart too.
func TestAcceptedWallClock(t *testing.T) {
	onEachStore(t, func(t *testing.T, s testStore) {
		const jump = 60 * 24 * time.Hour
		d := s.instance(t, "--prometheus.enabled=false")
		d.moveClocks(0, 0)
		d.start()
		d.history()
		d.moveClocks(0, jump)
		d.awaitJump(jump)
		ahead := time.Now().Add(jump).UTC()
		d.post(fmt.Sprintf(`{"event_type":"c","user_id":"ann","created_at":%q}`, ahead.Format(time.RFC3339))) // by a clock that is right
		if a := d.do(http.MethodPost, "/api/v1/usage/clock/accept", "producer", nil, nil); a.status != http.StatusForbidden {
			t.Errorf("a producer accepts the clock: status %d", a.status)
		}
		a := d.do(http.MethodPost, "/api/v1/usage/clock/accept", "admin", nil, nil)
		var c clockAnswer
		if err := json.Unmarshal(a.body, &c); err != nil || a.status != http.StatusOK || c.JumpSeconds != 0 || c.Time.Sub(ahead).Abs() > time.Hour ||
			!c.Deletion.Equal(c.Time) {
			t.Fatalf("accept: status %d, %s, %v", a.status, a.body, err)
		}
		if !strings.Contains(d.log.String(), "an operator has accepted the wall clock") {
			t.Error("the log says nothing of it")
		}
		d.kill()
		d.start()
		d.awaitJump(0)
		d.post(`{"event_type":"c","user_id":"ann"}`)
		d.settle()
		daily := d.daily(30)
		if got := daily[ahead.Format(time.DateOnly)]["c"]; got != 2 || len(daily) != 30 {
			t.Errorf("%d events are counted on the accepted day, want 2; days %v", got, daily)
		}
		d.stop() // seals what is to be deleted
		d.start()
		eventually(t, "what is too old by the accepted time is deleted", func() error {
			if raw := strings.Count(string(d.get(eventsPath, "admin")), "\n"); raw > 2 {
				return fmt.Errorf("%d events are in the journal", raw)
			}
			return nil
		})
	})
}
