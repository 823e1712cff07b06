// Package accept keeps what operators have accepted as the new normal of an event type: from then on the rules multiply what they knew of
// earlier weeks by a ratio, and a drop that was told ends.
//
// It is exported as usaged_accepted_activity_ratio{event_type} and usaged_accepted_activity_timestamp_seconds{event_type} for as long as
// the rules look back. What [Normals.Accept] has returned without an error survives a crash. Everything is safe for concurrent use.
//
//	normals, err := accept.Open(accept.Config{Path: "data/accepted.json"})
//	registry.Register(normals)
//	err = normals.Accept(accept.Normal{EventType: "sql_generation", Ratio: 0.6, By: "admin", Reason: "half of the users have moved"})
package accept

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/aside"
	"usaged/aggregator/durable"
)

const (
	// MaxReasonBytes bounds a reason.
	MaxReasonBytes = 200
	// maxEntries bounds what is kept, and so the series: the oldest make room.
	maxEntries = 1000
	// kept is how long one is exported: the four weeks of which the rules know, and a day.
	kept = 29 * 24 * time.Hour
)

// Normal is a new normal: so many times what was expected of an event type.
type Normal struct {
	EventType string    `json:"event_type"`
	Ratio     float64   `json:"ratio"`
	At        time.Time `json:"at"`
	// By is the name of the token that has accepted it.
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
}

// Config says where they are.
type Config struct {
	// Path is the file. Required; made with the first.
	Path string
	// Damaged is where the file goes if it cannot be used: without it drops are told again, and events are taken. Nil: Open returns the error.
	Damaged *aside.Shelf
	// Now is the clock. Required.
	Now func() time.Time
}

// Normals are all that were accepted. They are a prometheus.Collector.
type Normals struct {
	cfg             Config
	ratio, accepted *prometheus.Desc

	mu   sync.Mutex
	file saved
}

// saved is the file: what was accepted in the last weeks, with who did so and why.
type saved struct {
	Entries []Normal `json:"entries"`
}

var savedFormat = durable.Format{Version: 1}

// Open reads the file.
func Open(cfg Config) (*Normals, error) {
	n := &Normals{
		cfg: cfg, file: saved{Entries: []Normal{}},
		ratio: prometheus.NewDesc("usaged_accepted_activity_ratio",
			"The part of what was expected of an event type that an operator has accepted as the new normal.", []string{"event_type"}, nil),
		accepted: prometheus.NewDesc("usaged_accepted_activity_timestamp_seconds",
			"When an operator has accepted a new normal of an event type.", []string{"event_type"}, nil),
	}
	_, err := savedFormat.LoadJSON(cfg.Path, &n.file)
	if errors.Is(err, os.ErrNotExist) {
		return n, nil
	}
	if err == nil {
		return n, nil
	}
	err = fmt.Errorf("read accepted normals: %w: restore it from a backup, or delete it and accept them again", err)
	n.file = saved{}
	if cfg.Damaged == nil {
		return nil, err
	}
	return n, cfg.Damaged.Move("accepted-normals", err, cfg.Path)
}

// Accept makes it durable, and exports it from then on. Where another was accepted of the type in the last four weeks, the ratio is of what
// was expected before that.
func (n *Normals) Accept(normal Normal) (Normal, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	normal.At = n.cfg.Now().UTC().Truncate(time.Second)
	next := saved{Entries: []Normal{}}
	for _, e := range n.current() {
		if e.EventType == normal.EventType {
			normal.Ratio *= e.Ratio
			continue
		}
		next.Entries = append(next.Entries, e)
	}
	next.Entries = append(next.Entries, normal)
	next.Entries = next.Entries[max(0, len(next.Entries)-maxEntries):]
	if err := savedFormat.SaveJSON(n.cfg.Path, next, 0o644); err != nil {
		return Normal{}, fmt.Errorf("write accepted normals: %w", err)
	}
	n.file = next
	return normal, nil
}

// current are those that the rules still need. n.mu is held.
func (n *Normals) current() []Normal {
	oldest := n.cfg.Now().Add(-kept)
	return slices.DeleteFunc(slices.Clone(n.file.Entries), func(e Normal) bool { return e.At.Before(oldest) })
}

// Describe implements prometheus.Collector.
func (n *Normals) Describe(descs chan<- *prometheus.Desc) {
	descs <- n.ratio
	descs <- n.accepted
}

// Collect implements prometheus.Collector.
func (n *Normals) Collect(metrics chan<- prometheus.Metric) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.current() {
		metrics <- prometheus.MustNewConstMetric(n.ratio, prometheus.GaugeValue, e.Ratio, e.EventType)
		metrics <- prometheus.MustNewConstMetric(n.accepted, prometheus.GaugeValue, float64(e.At.Unix()), e.EventType)
	}
}
