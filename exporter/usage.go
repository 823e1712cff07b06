package exporter

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
)

// maxTypeLabels bounds the values of the label event_type. Further types are exported together as event.Other.
const maxTypeLabels = 200

// Usage exports the lifetime totals of this data directory:
//
//	usage_events_total{event_type}
//
// A counter never falls, whatever happens to the store or to this process: a value is exported only when it has been
// made durable as the high-water mark in a file, and what is exported is never less than that. So while the rollups are being
// rebuilt the counters stand still. Which types have a label of their own is remembered in the file too.
//
// While the totals are not known and there is no file, the family is absent, not zero. Safe for concurrent use.
type Usage struct {
	path   string
	totals func() (meter.Totals, bool)
	log    *slog.Logger

	events   *prometheus.Desc
	overflow *prometheus.Desc
	failures prometheus.Counter

	mu   sync.Mutex
	high highWater
}

// highWater is the file.
type highWater struct {
	Version int `json:"version"`
	// Events has the value of usage_events_total per label value.
	Events map[string]uint64 `json:"usage_events_total"`
}

const highWaterVersion = 1

// NewUsage returns the collector. path is the file of the high-water marks, totals returns the current totals, and false
// while they are not known.
func NewUsage(path string, totals func() (meter.Totals, bool), log *slog.Logger) (*Usage, error) {
	u := &Usage{
		path:   path,
		totals: totals,
		log:    log.With("component", "exporter"),
		events: prometheus.NewDesc("usage_events_total",
			"Events counted, by type, since the data directory was made. Duplicates are not counted.", []string{"event_type"}, nil),
		overflow: prometheus.NewDesc("usaged_label_overflow_types",
			"Event types that are exported as __other__ because usage_events_total has as many label values as it may.", nil, nil),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "usaged_high_water_write_errors_total",
			Help: "Attempts to save the high-water marks of the usage counters that failed, so that the counters stood still.",
		}),
		high: highWater{Events: map[string]uint64{}},
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return nil, err
	}
	u.high.Events = nil
	if err := json.Unmarshal(data, &u.high); err != nil || u.high.Events == nil {
		return nil, fmt.Errorf("%s is damaged (%v): restore it from a backup, or delete it if a fall of the usage counters is acceptable", path, err)
	}
	if u.high.Version != highWaterVersion {
		return nil, fmt.Errorf("%s has version %d: start the newer usaged that wrote it", path, u.high.Version)
	}
	return u, nil
}

// Describe implements prometheus.Collector.
func (u *Usage) Describe(out chan<- *prometheus.Desc) {
	out <- u.events
	out <- u.overflow
	u.failures.Describe(out)
}

// Collect implements prometheus.Collector.
func (u *Usage) Collect(out chan<- prometheus.Metric) {
	events, overflow := u.advance()
	for _, label := range slices.Sorted(maps.Keys(events)) {
		out <- prometheus.MustNewConstMetric(u.events, prometheus.CounterValue, float64(events[label]), label)
	}
	out <- prometheus.MustNewConstMetric(u.overflow, prometheus.GaugeValue, float64(overflow))
	u.failures.Collect(out)
}

// advance raises the high-water marks to the current totals and returns them, and how many types have no label of
// their own.
func (u *Usage) advance() (events map[string]uint64, overflow int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	totals, known := u.totals()
	if !known {
		return u.high.Events, 0
	}
	sums := map[string]uint64{}
	for _, t := range event.KnownTypes {
		sums[t] = 0 // so that their rates begin at zero
	}
	for s, n := range totals {
		if s.Family == meter.FamilyEvents {
			sums[s.A] += n
		}
	}
	next := maps.Clone(u.high.Events)
	other := uint64(0)
	for _, t := range slices.Sorted(maps.Keys(sums)) {
		_, admitted := next[t]
		if !admitted && (len(next) >= maxTypeLabels || t == event.Other) {
			other += sums[t]
			overflow++
			continue
		}
		next[t] = max(next[t], sums[t])
	}
	if other > 0 {
		next[event.Other] = max(next[event.Other], other)
	}
	if !maps.Equal(next, u.high.Events) {
		u.save(next)
	}
	return u.high.Events, overflow
}

// save makes marks durable before they are exported. u.mu is held.
func (u *Usage) save(events map[string]uint64) {
	high := highWater{Version: highWaterVersion, Events: events}
	data, err := json.Marshal(high)
	if err == nil {
		err = durable.WriteFile(u.path, append(data, '\n'), 0o644)
	}
	if err != nil {
		u.failures.Inc()
		u.log.Error("high-water marks could not be saved; the usage counters stand still until they can", "err", err)
		return
	}
	u.high = high
}
