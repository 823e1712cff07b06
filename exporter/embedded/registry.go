package embedded

import (
	"regexp"

	"github.com/prometheus/client_golang/prometheus"
)

// exposed are the metrics of Prometheus that say something an operator of usaged can act on. It has some 200 others, which
// would be more than half of /metrics.
var exposed = map[string]bool{
	"prometheus_engine_queries":                             true,
	"prometheus_notifications_alertmanagers_discovered":     true,
	"prometheus_notifications_dropped_total":                true,
	"prometheus_notifications_errors_total":                 true,
	"prometheus_notifications_queue_length":                 true,
	"prometheus_notifications_sent_total":                   true,
	"prometheus_rule_evaluation_failures_total":             true,
	"prometheus_rule_evaluations_total":                     true,
	"prometheus_rule_group_iterations_missed_total":         true,
	"prometheus_rule_group_last_duration_seconds":           true,
	"prometheus_target_scrapes_exceeded_sample_limit_total": true,
	"prometheus_tsdb_blocks_loaded":                         true,
	"prometheus_tsdb_compactions_failed_total":              true,
	"prometheus_tsdb_head_samples_appended_total":           true,
	"prometheus_tsdb_head_series":                           true,
	"prometheus_tsdb_lowest_timestamp_seconds":              true,
	"prometheus_tsdb_out_of_bound_samples_total":            true,
	"prometheus_tsdb_out_of_order_samples_appended_total":   true,
	"prometheus_tsdb_reloads_failures_total":                true,
	"prometheus_tsdb_storage_blocks_bytes":                  true,
	"prometheus_tsdb_wal_corruptions_total":                 true,
	"prometheus_tsdb_wal_storage_size_bytes":                true,
	"prometheus_tsdb_wal_writes_failed_total":               true,
}

// selected passes on the registration of exposed metrics, and lets the others count for nobody.
type selected struct{ prometheus.Registerer }

var fqName = regexp.MustCompile(`^Desc\{fqName: "([^"]*)"`)

func (s selected) Register(c prometheus.Collector) error {
	if !chosen(c) {
		return nil
	}
	return s.Registerer.Register(c)
}

func (s selected) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if chosen(c) {
			s.Registerer.MustRegister(c)
		}
	}
}

// chosen says whether all metrics of a collector are exposed.
func chosen(c prometheus.Collector) bool {
	descs := make(chan *prometheus.Desc)
	go func() {
		c.Describe(descs)
		close(descs)
	}()
	all, some := true, false
	for d := range descs {
		some = true
		m := fqName.FindStringSubmatch(d.String()) // which is the only way to a Desc's name
		all = all && m != nil && exposed[m[1]]
	}
	return all && some
}
