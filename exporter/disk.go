package exporter

import (
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// disk exports how full the file system of a directory is.
type disk struct {
	dir        string
	free, size *prometheus.Desc
}

// NewDisk returns a collector of the file system that has the data directory:
//
//	usaged_data_free_bytes
//	usaged_data_size_bytes
//
// They are absent where it cannot be asked.
func NewDisk(dir string) prometheus.Collector {
	return &disk{
		dir: dir,
		free: prometheus.NewDesc("usaged_data_free_bytes",
			"Space that is left for the daemon's user in the file system of the data directory.", nil, nil),
		size: prometheus.NewDesc("usaged_data_size_bytes",
			"Size of the file system of the data directory.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (d *disk) Describe(out chan<- *prometheus.Desc) {
	out <- d.free
	out <- d.size
}

// Collect implements prometheus.Collector.
func (d *disk) Collect(out chan<- prometheus.Metric) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		return // an invalid metric would fail the whole scrape
	}
	block := float64(st.Bsize)
	out <- constMetric(d.free, prometheus.GaugeValue, float64(st.Bavail)*block)
	out <- constMetric(d.size, prometheus.GaugeValue, float64(st.Blocks)*block)
}
