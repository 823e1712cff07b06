package retention

import (
	"time"

	"github.com/VictoriaMetrics/metrics"
)

const day = 24 * time.Hour

var help = map[string]string{
	"usaged_retention_seconds":               "How far back can be asked for, as --retention.days says.",
	"usaged_retention_kept_seconds":          "How far back rollups are kept: further than can be asked for while a lower --retention.days waits for its day to pass.",
	"usaged_retention_due_timestamp_seconds": "When the days beyond --retention.days will be deleted, 0 where there are none.",
	"usaged_retention_file_errors_total":     "Times that the file which says how many days are kept could not be read or written.",
}

// Help has the help texts of the metrics that Register registers.
func Help() map[string]string { return help }

// Register has a set show how a policy stands.
func (p *Policy) Register(set *metrics.Set) {
	set.NewGauge("usaged_retention_seconds", func() float64 { return float64(p.State().Days) * day.Seconds() })
	set.NewGauge("usaged_retention_kept_seconds", func() float64 { return float64(p.State().Kept) * day.Seconds() })
	set.NewGauge("usaged_retention_due_timestamp_seconds", func() float64 {
		if s := p.State(); s.Pending() {
			return float64(s.Due.Unix())
		}
		return 0
	})
	set.NewGauge("usaged_retention_file_errors_total", func() float64 { return float64(p.State().Failures) })
}
