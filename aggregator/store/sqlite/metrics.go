package sqlite

import (
	"os"

	vm "github.com/VictoriaMetrics/metrics"
)

const (
	nameBytes    = "usaged_store_sqlite_bytes"
	nameWALBytes = "usaged_store_sqlite_wal_bytes"
	nameWALBusy  = "usaged_store_sqlite_wal_busy_total"
)

// Help returns a sentence for each metric.
func Help() map[string]string {
	return map[string]string{
		nameBytes:    "Size of the usage database without its write-ahead log.",
		nameWALBytes: "Size of the write-ahead log of the usage database.",
		nameWALBusy:  "Times that a long write-ahead log could not be emptied because a reader was still using it.",
	}
}

// metrics are the metrics of one store. A nil *metrics keeps none.
type metrics struct {
	set     *vm.Set
	walBusy *vm.Counter
}

func newMetrics(set *vm.Set, path string) *metrics {
	if set == nil {
		return &metrics{walBusy: new(vm.Counter)}
	}
	set.NewGauge(nameBytes, func() float64 { return float64(fileBytes(path)) })
	set.NewGauge(nameWALBytes, func() float64 { return float64(fileBytes(path + "-wal")) })
	return &metrics{set: set, walBusy: set.NewCounter(nameWALBusy)}
}

func (m *metrics) close() {
	if m == nil || m.set == nil {
		return
	}
	for name := range Help() {
		m.set.UnregisterMetric(name)
	}
}

// fileBytes returns the size of a file, 0 where there is none.
func fileBytes(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
