package clock

import "github.com/VictoriaMetrics/metrics"

var help = map[string]string{
	"usaged_clock_jump_seconds":            "How far the wall clock is ahead of the time by which events are stamped and old data is deleted, because it has jumped; negative where it is behind, 0 where it is right.",
	"usaged_clock_jumps_total":             "Times that the wall clock has jumped, by this process.",
	"usaged_clock_deletion_behind_seconds": "How much longer than usual old data is kept, because the daemon cannot know for how long it was off; 0 otherwise.",
	"usaged_clock_file_errors_total":       "Times that the file which carries the time over a restart could not be read or written.",
}

// Help has the help texts of the metrics that Register registers.
func Help() map[string]string { return help }

// Register has a set show what the clock knows.
func (c *Clock) Register(set *metrics.Set) {
	set.NewGauge("usaged_clock_jump_seconds", func() float64 { return c.State().Jump.Seconds() })
	set.NewGauge("usaged_clock_jumps_total", func() float64 { return float64(c.State().Jumps) })
	set.NewGauge("usaged_clock_deletion_behind_seconds", func() float64 {
		s := c.State()
		return s.Now.Sub(s.Deletion).Seconds()
	})
	set.NewGauge("usaged_clock_file_errors_total", func() float64 { return float64(c.State().SaveErrors) })
}
