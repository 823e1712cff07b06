package rules_test

import (
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/rulefmt"
)

// alerts are those about activity: all of them are counted.
var alerts = []string{"UsageActivityDropped", "UsageActivityDroppedOverall", "UsageNoEvents", "UsageActivityRose"}

// judged returns the rules that alerts and modes need.
func judged(t testing.TB) []rulefmt.RuleGroup {
	t.Helper()
	return needed(t, shipped(t), append([]string{"usage:health:type_mode"}, alerts...)...)
}

func noLag(int) float64 { return 0 }

// drop takes a part of the events away.
func drop(random *rand.Rand, counts []float64, s span, part float64) {
	for m := s.from; m < s.to && m < len(counts); m++ {
		counts[m] = thin(random, counts[m], 1-part)
	}
}

// apart is how many minutes without an alarm divide two incidents.
const incidentGap = 12 * 60

// incidents counts the alarms that began in a stretch, and the incidents that they are: alarms of any kind with less than half a day
// between them are one.
func incidents(fired []firing, from int) (alarms, count int) {
	last := -incidentGap
	for _, f := range fired {
		start, end := minuteOf(f.start), minuteOf(f.end)
		if start < from {
			last = max(last, end)
			continue
		}
		alarms++
		if start-last >= incidentGap {
			count++
		}
		last = max(last, end)
	}
	return alarms, count
}
