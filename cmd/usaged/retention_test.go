package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// retentionState is what the daemon says of its retention.
type retentionState struct {
	Days     int
	KeptDays int `json:"kept_days"`
	Pending  *struct {
		Due       time.Time
		From, To  string
		Events    uint64
		RawEvents uint64 `json:"raw_events"`
	}
	Restored *struct {
		Phase      string
		Days       int
		Incomplete []string `json:"incomplete_days"`
	}
}

// restartWith restarts the daemon with another retention.
func (d *instance) restartWith(days int) {
	d.tb.Helper()
	if d.run != nil {
		d.stop()
	}
	d.args = slices.DeleteFunc(d.args, func(arg string) bool { return strings.HasPrefix(arg, "--retention.days=") })
	d.args = append(d.args, fmt.Sprintf("--retention.days=%d", days))
	d.start()
	d.settle()
}

// storedDays returns how many days the embedded database has.
func (d *instance) storedDays() (n int) {
	d.tb.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(d.dir, "usage.db")+"?mode=ro")
	if err != nil {
		d.tb.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(context.Background(), "SELECT count(DISTINCT day) FROM day").Scan(&n); err != nil {
		d.tb.Fatal(err)
	}
	return n
}

// sum returns how many events a window has.
func (d *instance) sum(days int) (n uint64) {
	d.tb.Helper()
	for _, users := range d.summary(days) {
		for _, count := range users {
			n += count
		}
	}
	return n
}

// TestLoweredRetention lowers the retention, takes it back, lowers it again and lets the day pass: only then anything is
// deleted, and what will be is announced.
func TestLoweredRetention(t *testing.T) {
	onEachStore(t, func(t *testing.T, s testStore) {
		d := s.instance(t, "--prometheus.enabled=false")
		d.moveClocks(0, 0)
		d.restartWith(30)
		d.history()
		d.restartWith(5)
		var state retentionState
		d.getJSON("/api/v1/usage/retention", &state)
		if state.Days != 5 || state.KeptDays != 30 || state.Pending == nil {
			t.Fatalf("lowered to 5 days: %+v", state)
		}
		// 200 events over 20 days, of which the last 5 and 3 more stay.
		if p := state.Pending; p.Events != 120 || time.Until(p.Due) < 20*time.Hour || p.To != time.Now().UTC().AddDate(0, 0, -8).Format(time.DateOnly) {
			t.Errorf("lowered to 5 days: pending %+v, want the 120 events of 12 days", p)
		}
		if kept, due := d.metric("usaged_retention_kept_seconds")/86400, d.metric("usaged_retention_due_timestamp_seconds"); kept != 30 || due == 0 {
			t.Errorf("metrics: %v days are kept, due %v", kept, due)
		}
		eventually(t, "a line in the log", func() error {
			if !strings.Contains(d.log.String(), "--retention.days has been lowered") {
				return fmt.Errorf("not there yet")
			}
			return nil
		})
		if got := d.sum(5); got != 50+20 {
			t.Errorf("%d events are in the last 5 days, want 70", got)
		}
		d.restartWith(30)
		if got := d.sum(30); got != 220 {
			t.Errorf("taken back: %d events, want 220", got)
		}
		d.restartWith(5)
		if s.redis != nil {
			return // it lets keys expire by a clock that tests cannot move
		}
		d.moveClocks(25*time.Hour, 0)
		eventually(t, "the day has passed", func() error {
			if kept := d.metric("usaged_retention_kept_seconds") / 86400; kept != 5 {
				return fmt.Errorf("%v days are kept", kept)
			}
			return nil
		})
		eventually(t, "what is beyond 5 days and 3 more is deleted", func() error {
			if days := d.storedDays(); days > 5+3 {
				return fmt.Errorf("%d days are stored", days)
			}
			return nil
		})
		d.restartWith(30)
		if got := d.sum(30); got != 90 && got != 80 { // a day has gone by, or two where it was late in the day
			t.Errorf("raised again: %d events, want those of the days that the journal was kept for", got)
		}
	})
}

// TestAppliedRetention has deleted at once what a lowered retention is going to delete.
func TestAppliedRetention(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--prometheus.enabled=false")
	d.restartWith(30)
	d.history()
	d.restartWith(5)
	if a := d.do(http.MethodPost, "/api/v1/usage/retention/apply", "viewer", nil, nil); a.status != http.StatusForbidden {
		t.Errorf("a viewer applies the retention: status %d", a.status)
	}
	a := d.do(http.MethodPost, "/api/v1/usage/retention/apply", "admin", nil, nil)
	var state retentionState
	if err := json.Unmarshal(a.body, &state); err != nil || a.status != http.StatusOK || state.KeptDays != 5 || state.Pending != nil {
		t.Fatalf("apply: status %d, %s, %v", a.status, a.body, err)
	}
	d.kill()
	d.start()
	eventually(t, "what is beyond 5 days and 3 more is deleted", func() error {
		if days := d.storedDays(); days > 5+3 {
			return fmt.Errorf("%d days are stored", days)
		}
		return nil
	})
	if kept := d.metric("usaged_retention_kept_seconds") / 86400; kept != 5 {
		t.Errorf("after a restart %v days are kept, want 5", kept)
	}
}

// TestRestoredDays has days deleted because fewer are kept, and asks for more again: what the journal has of them counts as
// before, once, also where the daemon is killed meanwhile and where events of these days arrive before all is counted again.
func TestRestoredDays(t *testing.T) {
	onEachStore(t, func(t *testing.T, s testStore) {
		d := s.instance(t, "--prometheus.enabled=false")
		d.restartWith(30)
		d.history()
		before := d.sum(30)
		d.restartWith(5)
		if a := d.do(http.MethodPost, "/api/v1/usage/retention/apply", "admin", nil, nil); a.status != http.StatusOK {
			t.Fatalf("apply: status %d, %s", a.status, a.body)
		}
		d.expire(s, 8)
		d.stop()
		d.args = slices.DeleteFunc(d.args, func(arg string) bool { return strings.HasPrefix(arg, "--retention.days=") })
		d.args = append(d.args, "--retention.days=30")
		for range 3 {
			d.start()
			d.kill()
		}
		d.start()
		for i := range 20 { // on the same days
			d.post(fmt.Sprintf(`{"event_type":"a","user_id":"u","created_at":%q}`, time.Now().AddDate(0, 0, -i).UTC().Format(time.RFC3339)))
		}
		eventually(t, "the days are restored", func() error {
			var state retentionState
			d.getJSON("/api/v1/usage/retention", &state)
			if state.Restored == nil || state.Restored.Phase != "done" || state.Restored.Days < 10 || len(state.Restored.Incomplete) > 0 {
				return fmt.Errorf("%+v", state.Restored)
			}
			return nil
		})
		d.settle()
		if got := d.sum(30); got != before+20 {
			t.Errorf("%d events, want %d", got, before+20)
		}
		if days := d.metric("usaged_retention_incomplete"); days != 0 {
			t.Errorf("%v days are incomplete", days)
		}
	})
}

// expire waits until the days before the last so many are gone from the embedded database, and removes them from Redis as expiry does:
// tests cannot move the clock of that.
func (d *instance) expire(s testStore, days int) {
	d.tb.Helper()
	if s.redis == nil {
		d.stop()
		d.start() // the daemon looks for what is to be deleted when it starts, and each minute
		eventually(d.tb, "old days are deleted", func() error {
			if n := d.storedDays(); n > days {
				return fmt.Errorf("%d days are stored", n)
			}
			return nil
		})
		return
	}
	oldest := time.Now().UTC().AddDate(0, 0, 1-days).Format(time.DateOnly)
	for key := range strings.Lines(s.redis.Do("KEYS", "usage:*:day:*")) {
		key = strings.TrimSuffix(key, "\n")
		_, rest, _ := strings.Cut(key, ":day:")
		if day, _, _ := strings.Cut(rest, ":"); day < oldest {
			s.redis.Do("DEL", key)
		}
	}
}
