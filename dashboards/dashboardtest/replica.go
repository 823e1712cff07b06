package dashboardtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"usaged/rules/price"
)

// count writes what a replica would have exported at every scrape: the families of usage, and of its own the few that rules and
// annotations read.
func (h History) count(tb testing.TB, db *tsdb.DB) {
	tb.Helper()
	r := &replica{tb: tb, h: h, totals: map[string]float64{}, adders: map[string]func(int64, float64){}, seen: map[int64]map[string]bool{}}
	next := 0
	for at := h.From; at.Before(h.To); at = at.Add(scraped) {
		for ; next < len(h.Events) && h.Events[next].Created.Before(at); next++ {
			r.event(h.Events[next])
		}
		if r.app == nil {
			r.app = db.AppenderV2(context.Background())
		}
		r.scrape(at)
	}
	if err := r.app.Commit(); err != nil {
		tb.Fatal(err)
	}
}

type replica struct {
	tb     testing.TB
	h      History
	app    storage.AppenderV2
	totals map[string]float64
	adders map[string]func(int64, float64)
	seen   map[int64]map[string]bool // day → users
	last   map[string]time.Time      // event type → the time of its last event
}

const day = 24 * time.Hour

func (r *replica) event(e Event) {
	e.add(r.totals)
	d := e.Created.Unix() / int64(day/time.Second)
	if r.seen[d] == nil {
		r.seen[d] = map[string]bool{}
	}
	r.seen[d][e.User] = true
	if r.last == nil {
		r.last = map[string]time.Time{}
	}
	r.last[e.Type] = e.Created
}

// scrape appends all series at a time. In the first hours there is nothing to count users of, which is as in a new daemon.
func (r *replica) scrape(at time.Time) {
	for k, v := range r.totals {
		r.add(k, at, v)
	}
	for window, days := range map[string]int64{"1d": 1, "7d": 7, "30d": 30} {
		r.add(key("usage_active_users", "window", window), at, r.users(at, days))
	}
	for eventType, last := range r.last {
		r.add(key("usage_last_event_timestamp_seconds", "event_type", eventType), at, float64(last.Unix()))
	}
	version, started := "0.1.0", r.h.From
	for i, update := range r.h.Updates {
		if at.After(update) {
			version, started = fmt.Sprintf("0.1.%d", i+1), update
		}
	}
	for _, p := range r.h.Prices {
		r.add(key(price.Metric, "model", p.Model, "kind", p.Kind), at, p.USD)
	}
	r.add(key("usaged_apply_lag_seconds"), at, 0)
	r.add(key("usaged_build_info", "version", version, "goversion", "go1.26"), at, 1)
	r.add(key("process_start_time_seconds"), at, float64(started.Unix()))
	r.add(key("up"), at, 1)
}

// users counts those of the last days, today included.
func (r *replica) users(at time.Time, days int64) float64 {
	all := map[string]bool{}
	today := at.Unix() / int64(day/time.Second)
	for d := today - days + 1; d <= today; d++ {
		for user := range r.seen[d] {
			all[user] = true
		}
	}
	return float64(len(all))
}

func (r *replica) add(k string, at time.Time, v float64) {
	add := r.adders[k]
	if add == nil {
		name, rest, _ := strings.Cut(k, "\xff")
		pairs := []string{model.MetricNameLabel, name, "job", "usaged", "instance", r.h.Instance}
		if rest != "" {
			pairs = append(pairs, strings.Split(rest, "\xff")...)
		}
		add = adder(r.tb, r.app, labels.FromStrings(pairs...))
		r.adders[k] = add
	}
	add(at.UnixMilli(), v)
}
