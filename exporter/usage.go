package exporter

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/durable"
	"usaged/aggregator/meter"
)

// Usage exports the lifetime totals of this data directory: usage_events_total, the other families of the package meter,
// and the metrics of meters.
//
// A counter never falls, whatever happens to the store or to this process: a value is exported only when it has been
// made durable as the high-water mark in a file, and what is exported is never less than that. So while the rollups are being
// rebuilt the counters stand still.
//
// While the totals are not known and there is no file, the families are absent, not zero. Safe for concurrent use.
type Usage struct {
	cfg      UsageConfig
	failures prometheus.Counter

	mu    sync.Mutex
	high  highWater
	known bool // there is a file
}

// UsageConfig assembles a Usage.
type UsageConfig struct {
	// Path is the file of the high-water marks.
	Path string
	// Totals returns the current totals, and false while they are not known.
	Totals func() (meter.Totals, bool)
	// Meters returns the meters, of which some have metrics. None where nil.
	Meters func() []meter.Meter
	Log    *slog.Logger
}

// highWater is the file.
type highWater struct {
	// Totals has the highest value of each series that was exported.
	Totals meter.Totals `json:"totals"`
}

var highWaterFormat = durable.Format{Version: 3, Plain: 2}

// NewUsage returns the collector.
func NewUsage(cfg UsageConfig) (*Usage, error) {
	cfg.Log = cfg.Log.With("component", "exporter")
	u := &Usage{
		cfg: cfg,
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "usaged_high_water_write_errors_total",
			Help: "Attempts to save the high-water marks of the usage counters that failed, so that the counters stood still.",
		}),
		high: highWater{Totals: meter.Totals{}},
	}
	var high highWater
	plain, err := highWaterFormat.LoadJSON(cfg.Path, &high)
	if errors.Is(err, os.ErrNotExist) {
		return u, nil
	}
	if err == nil && high.Totals == nil {
		err = fmt.Errorf("%s is %w: it has no totals", cfg.Path, durable.ErrDamaged)
	}
	const otherwise = "or delete it if a fall of the usage counters is acceptable"
	switch {
	case errors.Is(err, durable.ErrDamaged):
		return nil, fmt.Errorf("read the high-water marks: %w: restore it from a backup, %s", err, otherwise)
	case errors.Is(err, durable.ErrVersion):
		return nil, fmt.Errorf("read the high-water marks: %w: start the usaged that wrote it, %s", err, otherwise)
	case err != nil:
		return nil, fmt.Errorf("read the high-water marks: %w", err)
	}
	u.high, u.known = high, true
	if plain {
		u.save(high.Totals)
	}
	return u, nil
}

// Describe sends nothing: which families there are depends on the meters of the moment.
func (u *Usage) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (u *Usage) Collect(out chan<- prometheus.Metric) {
	u.failures.Collect(out)
	totals, known := u.advance()
	if !known {
		return
	}
	families := newFamilies(u.cfg.Meters)
	for s, n := range totals {
		families.add(s, n)
	}
	families.collect(out)
}

// advance raises the high-water marks to the current totals and returns them, or false where there are none yet. The map is
// not changed any more.
func (u *Usage) advance() (meter.Totals, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	totals, known := u.cfg.Totals()
	if !known {
		return u.high.Totals, u.known
	}
	next := maps.Clone(u.high.Totals)
	changed := !u.known
	for s, n := range totals {
		if before, shown := next[s]; (n > before || !shown) && s.Family != meter.FamilyDuplicates {
			next[s], changed = n, true
		}
	}
	if changed {
		u.save(next)
	}
	return u.high.Totals, u.known
}

// save makes marks durable before they are exported. u.mu is held.
func (u *Usage) save(totals meter.Totals) {
	high := highWater{Totals: totals}
	if err := highWaterFormat.SaveJSON(u.cfg.Path, high, 0o640); err != nil {
		u.failures.Inc()
		u.cfg.Log.Error("high-water marks could not be saved; the usage counters stand still until they can", "err", err)
		return
	}
	u.high, u.known = high, true
}
