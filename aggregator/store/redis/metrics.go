package redis

import (
	"fmt"
	"sync"

	vm "github.com/VictoriaMetrics/metrics"
)

const (
	nameErrors   = "usaged_store_redis_errors_total"
	nameEviction = "usaged_store_redis_eviction_policy_ok"
	nameMeta     = "usaged_store_redis_meta_rewrites_total"
)

// Help returns a sentence for each metric.
func Help() map[string]string {
	return map[string]string{
		nameErrors:   "Calls of the Redis store that failed, by the class of the error.",
		nameEviction: "Whether the maxmemory-policy of every Redis master is noeviction (1) or one that may delete rollups (0); absent until Redis has been asked.",
		nameMeta:     "Times that usage:meta was missing and has been written, the first time included.",
	}
}

// metrics are the metrics of one store.
type metrics struct {
	set         *vm.Set
	names       []string
	errors      map[Class]*vm.Counter
	metaWritten *vm.Counter

	mu       sync.Mutex
	eviction *vm.Gauge // nil until it is known
}

func newMetrics(set *vm.Set) *metrics {
	if set == nil {
		set = vm.NewSet()
	}
	m := &metrics{set: set, errors: make(map[Class]*vm.Counter), names: []string{nameMeta}}
	for class := range advice {
		name := fmt.Sprintf("%s{class=%q}", nameErrors, class)
		m.errors[class] = set.NewCounter(name)
		m.names = append(m.names, name)
	}
	m.metaWritten = set.NewCounter(nameMeta)
	return m
}

// setEviction shows whether the eviction policy is right.
func (m *metrics) setEviction(ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.eviction == nil {
		m.eviction = m.set.NewGauge(nameEviction, nil)
		m.names = append(m.names, nameEviction)
	}
	value := 0.0
	if ok {
		value = 1
	}
	m.eviction.Set(value)
}

func (m *metrics) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range m.names {
		m.set.UnregisterMetric(name)
	}
}
