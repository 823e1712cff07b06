package exporter

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// gaugesInterval is how often the active users are counted.
	gaugesInterval = 15 * time.Second
	// gaugesShare is how much longer than a count the wait for the next one is, at least: it takes at most 1% of a core.
	gaugesShare = 100
	// gaugesTimeout bounds one count.
	gaugesTimeout = 30 * time.Second
)

// activeWindows are the windows that users are counted in, in days.
var activeWindows = []int{1, 7, 30}

// Gauges exports what is true of all replicas together, so that queries aggregate it with max:
//
//	usage_active_users{window}
//	usage_last_event_timestamp_seconds{event_type}
//
// The users are counted in the background, by Run, and never by a scrape. While the rollups cannot be read their number is
// absent. Safe for concurrent use.
type Gauges struct {
	cfg          GaugesConfig
	active, last *prometheus.Desc
	failures     prometheus.Counter

	mu    sync.Mutex
	users map[string]int // by window
}

// GaugesConfig assembles Gauges.
type GaugesConfig struct {
	// ActiveUsers returns the number of users with an event in the last days, today (UTC) included. Version changes whenever it
	// may answer something else.
	ActiveUsers func(ctx context.Context, days int) (int, error)
	Version     func(ctx context.Context, days int) (string, error)
	// Newest returns when the last event of each type was accepted.
	Newest func() map[string]time.Time
	// Retention is the number of days that can be asked for. Longer windows are left out.
	Retention int
	Log       *slog.Logger
}

// NewGauges returns the collector.
func NewGauges(cfg GaugesConfig) *Gauges {
	cfg.Log = cfg.Log.With("component", "exporter")
	return &Gauges{
		cfg: cfg,
		active: prometheus.NewDesc("usage_active_users",
			"Users with an event on one of the last days (UTC), today included, of all replicas on one store; counted every 15 seconds.", []string{"window"}, nil),
		last: prometheus.NewDesc("usage_last_event_timestamp_seconds",
			"When the last event of a type was accepted by this replica, duplicates included: Unix time of the server.", []string{"event_type"}, nil),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "usaged_active_users_errors_total",
			Help: "Counts of the active users that failed, so that usage_active_users was absent.",
		}),
	}
}

// Describe implements prometheus.Collector.
func (g *Gauges) Describe(out chan<- *prometheus.Desc) {
	out <- g.active
	out <- g.last
	g.failures.Describe(out)
}

// Collect implements prometheus.Collector.
func (g *Gauges) Collect(out chan<- prometheus.Metric) {
	g.mu.Lock()
	users := g.users // not changed any more
	g.mu.Unlock()
	for window, n := range users {
		out <- constMetric(g.active, prometheus.GaugeValue, float64(n), window)
	}
	for t, at := range g.cfg.Newest() {
		out <- constMetric(g.last, prometheus.GaugeValue, float64(at.UnixMilli())/1000, t)
	}
	g.failures.Collect(out)
}

// Run counts the active users until ctx ends.
func (g *Gauges) Run(ctx context.Context) {
	version := ""
	for {
		began := time.Now()
		next, err := g.refresh(ctx, version)
		if version = next; err != nil && ctx.Err() == nil {
			g.failures.Inc()
			g.cfg.Log.Warn("active users could not be counted; their number is not exported until they can", "err", err)
		}
		timer := time.NewTimer(max(gaugesInterval, gaugesShare*time.Since(began)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// refresh counts the users unless the rollups have the version still, and returns their version.
func (g *Gauges) refresh(ctx context.Context, version string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gaugesTimeout)
	defer cancel()
	next, err := g.cfg.Version(ctx, min(activeWindows[len(activeWindows)-1], g.cfg.Retention))
	if err == nil && next == version {
		return version, nil
	}
	users := map[string]int{}
	for _, days := range activeWindows {
		if err != nil || days > g.cfg.Retention {
			break
		}
		users[fmt.Sprintf("%dd", days)], err = g.cfg.ActiveUsers(ctx, days)
	}
	if err != nil {
		users, next = nil, ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.users = users
	return next, err
}
