package exporter

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// aliveInterval is how often a replica says that it lives, aliveFor how long it is believed.
	aliveInterval = 15 * time.Second
	aliveFor      = time.Minute
	// aliveTimeout bounds one attempt.
	aliveTimeout = 5 * time.Second
)

// Replicas exports how many replicas count in the store of this one:
//
//	usaged_producers_alive
//
// A Prometheus that scrapes fewer sees a part of the usage alone. The number is absent until the store was reached for the first
// time, and stays what it was while the store is away. Safe for concurrent use.
type Replicas struct {
	cfg   ReplicasConfig
	alive *prometheus.Desc

	mu    sync.Mutex
	known bool
	n     int
}

// ReplicasConfig assembles Replicas.
type ReplicasConfig struct {
	// Alive says that this replica lives for so long, and returns how many do.
	Alive func(ctx context.Context, lives time.Duration) (int, error)
	Log   *slog.Logger
}

// NewReplicas returns the collector.
func NewReplicas(cfg ReplicasConfig) *Replicas {
	cfg.Log = cfg.Log.With("component", "exporter")
	return &Replicas{cfg: cfg, alive: prometheus.NewDesc("usaged_producers_alive",
		"This replica and the others that use its store and lived in the last minute, with events or without, as the store said last.", nil, nil)}
}

// Describe implements prometheus.Collector.
func (r *Replicas) Describe(out chan<- *prometheus.Desc) { out <- r.alive }

// Collect implements prometheus.Collector.
func (r *Replicas) Collect(out chan<- prometheus.Metric) {
	r.mu.Lock()
	n, known := r.n, r.known
	r.mu.Unlock()
	if known {
		out <- constMetric(r.alive, prometheus.GaugeValue, float64(n))
	}
}

// Run says that this replica lives, until ctx ends.
func (r *Replicas) Run(ctx context.Context) {
	ticker := time.NewTicker(aliveInterval)
	defer ticker.Stop()
	for {
		r.beat(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Replicas) beat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	n, err := r.cfg.Alive(ctx, aliveFor)
	if err != nil { // usaged_store_connected and usaged_apply_lag_seconds tell what becomes of the store
		r.cfg.Log.Debug("the store was not told that this replica lives", "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n, r.known = n, true
}
