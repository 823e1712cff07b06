package rules_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// benchOther plays what is not a plain drop, at a few rates of steady traffic.
func benchOther(t *testing.T, b *scoreboard, times int) {
	t.Helper()
	for i := range max(1, times/3) {
		random := rand.New(rand.NewPCG(uint64(i), 5))
		start := anyTime(random)
		s := span{start - 30, start + 12*60}
		var trials []trial
		for _, rate := range []float64{50, 500, 5000} {
			for _, happen := range []func(*rand.Rand, []float64, int) trial{declining, doubled, doubledBefore, holidayBefore, outageBefore, imported, quiet, failing} {
				tr := happen(random, steady(rate)(random, s.to+1), start)
				tr.subject = fmt.Sprintf("steady, %g/h", rate)
				tr.lane.name = tr.subject + ": " + tr.scenario
				trials = append(trials, tr)
			}
		}
		b.run(t, trials, noLag, s, time.Minute)
		b.run(t, lagging(random, start, s), lagOf(start), s, time.Minute)
	}
}

// declining loses a twelfth of its events every hour.
func declining(random *rand.Rand, counts []float64, start int) trial {
	for m := start; m < start+12*60; m++ {
		counts[m] = thin(random, counts[m], 1-float64(m-start)/(12*60))
	}
	return trial{scenario: "declines to nothing in 12h", lane: &lane{counts: counts}, harm: span{start, start + 12*60}}
}

// doubled has twice as many events for six hours.
func doubled(_ *rand.Rand, counts []float64, start int) trial {
	double(counts, span{start, start + 6*60})
	return trial{scenario: "doubled for 6h", lane: &lane{counts: counts}}
}

// doubledBefore had twice as many events for all of last week.
func doubledBefore(_ *rand.Rand, counts []float64, start int) trial {
	double(counts, span{start - 60 - minutesPerWeek, start - 60})
	return trial{scenario: "doubled last week", lane: &lane{counts: counts}}
}

func double(counts []float64, s span) {
	for m := s.from; m < s.to; m++ {
		counts[m] *= 2
	}
}

// holidayBefore had a fifth of its events on this day of two weeks ago.
func holidayBefore(random *rand.Rand, counts []float64, start int) trial {
	day := (start - 2*minutesPerWeek) / minutesPerDay * minutesPerDay
	drop(random, counts, span{day, day + minutesPerDay}, 0.8)
	return trial{scenario: "holiday two weeks ago", lane: &lane{counts: counts}}
}

// outageBefore had no events for eight hours two days ago, and drops by 70% now.
func outageBefore(random *rand.Rand, counts []float64, start int) trial {
	drop(random, counts, span{start - 2*minutesPerDay, start - 2*minutesPerDay + 8*60}, 1)
	harm := span{start, start + 6*60}
	drop(random, counts, harm, 0.7)
	return trial{scenario: "70% less, 2 days after an outage of 8h", lane: &lane{counts: counts}, harm: harm}
}

// imported gets 100,000 events from long ago in an hour.
func imported(_ *rand.Rand, counts []float64, start int) trial {
	late := make([]float64, len(counts))
	for m := start; m < start+60; m++ {
		late[m] = 100_000 / 60
	}
	return trial{scenario: "import of 100,000 old events", lane: &lane{counts: counts, late: late}}
}

// failing has a third of its events fail for six hours, and one in two hundred before and after.
func failing(random *rand.Rand, counts []float64, start int) trial {
	harm := span{start, start + 6*60}
	failed := make([]float64, len(counts))
	for m, n := range counts {
		part := 0.005
		if harm.holds(m) {
			part = 1.0 / 3
		}
		failed[m] = thin(random, n, part)
	}
	return trial{scenario: "a third fails", lane: &lane{counts: counts, failed: failed}, harm: harm, alert: "UsageFailureRatioHigh"}
}

// quiet has no events in a planned quiet time.
func quiet(random *rand.Rand, counts []float64, start int) trial {
	off := span{start, start + 6*60}
	drop(random, counts, off, 1)
	return trial{scenario: "planned quiet time of 6h", lane: &lane{counts: counts, quiet: off}}
}

// lagging are counted late for half an hour: nothing, and then all at once.
func lagging(random *rand.Rand, start int, s span) (trials []trial) {
	for _, rate := range []float64{50, 500, 5000} {
		counts := steady(rate)(random, s.to+1)
		held := 0.0
		for m := start; m < start+30; m++ {
			held += counts[m]
			counts[m] = 0
		}
		counts[start+30] += held
		name := fmt.Sprintf("steady, %g/h", rate)
		trials = append(trials, trial{subject: name, scenario: "store away for 30m", lane: &lane{name: name, counts: counts}})
	}
	return trials
}

// lagOf is the age of the oldest event that is not counted, in seconds.
func lagOf(start int) func(int) float64 {
	return func(m int) float64 {
		if m > start && m <= start+30 {
			return float64(m-start) * 60
		}
		return 0
	}
}
