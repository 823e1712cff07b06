package rules_test

import (
	"math"
	"math/rand/v2"
)

const (
	minutesPerDay  = 24 * 60
	minutesPerWeek = 7 * minutesPerDay
)

// subject is traffic of one type. What draw returns are events by minute, the first of which begins a Monday.
type subject struct {
	name    string
	perHour float64 // in the mean
	minutes int     // how many there are, 0 for any number
	draw    func(random *rand.Rand, minutes int) []float64
}

// season is what part of the mean rate a minute of the week has: three times as much in the afternoon as in the small hours, and
// less at the weekend.
func season(minute int) float64 {
	hour := float64(minute%minutesPerDay) / 60
	return (1 + 0.5*math.Sin(2*math.Pi*(hour-9)/24)) * weekday(minute)
}

func weekday(minute int) float64 {
	if minute%minutesPerWeek >= 5*minutesPerDay {
		return 0.7
	}
	return 1
}

// steady is traffic of people who know nothing of each other, with its season.
func steady(perHour float64) func(*rand.Rand, int) []float64 {
	return func(random *rand.Rand, minutes int) []float64 {
		counts := make([]float64, minutes)
		for m := range counts {
			counts[m] = poisson(random, perHour/60*season(m))
		}
		return counts
	}
}

// bursty is traffic whose rate itself goes up and down by a third, in bursts of an hour or so, and by 5% from day to day.
func bursty(perHour float64) func(*rand.Rand, int) []float64 {
	const keep, sigma = 0.98, 0.3
	return func(random *rand.Rand, minutes int) []float64 {
		counts := make([]float64, minutes)
		burst, day := 0.0, 0.0
		for m := range counts {
			if m%minutesPerDay == 0 {
				day = 0.05 * random.NormFloat64()
			}
			burst = keep*burst + sigma*math.Sqrt(1-keep*keep)*random.NormFloat64()
			counts[m] = poisson(random, perHour/60*season(m)*math.Exp(burst+day-sigma*sigma/2))
		}
		return counts
	}
}

func poisson(random *rand.Rand, mean float64) float64 {
	if mean > 50 {
		return math.Max(0, math.Round(mean+math.Sqrt(mean)*random.NormFloat64()))
	}
	n, p, limit := 0.0, random.Float64(), math.Exp(-mean)
	for ; p > limit; n++ {
		p *= random.Float64()
	}
	return n
}

// thin keeps each of n events with a probability.
func thin(random *rand.Rand, n, keep float64) float64 {
	if keep <= 0 || n == 0 {
		return 0
	}
	if variance := n * keep * (1 - keep); variance > 50 {
		return math.Min(n, math.Max(0, math.Round(n*keep+math.Sqrt(variance)*random.NormFloat64())))
	}
	kept := 0.0
	for range int(n) {
		if random.Float64() < keep {
			kept++
		}
	}
	return kept
}

// replay is traffic of the shape and with the bunches of recorded minutes, which are whole days: the events of stretches from
// anywhere in the recording follow each other as fast as the time of day and week has it.
func replay(recorded []float64) func(*rand.Rand, int) []float64 {
	profile := dayProfile(recorded)
	passed := make([]float64, len(recorded)+1) // how many events the profile had led to expect up to a recorded minute
	for m := range recorded {
		passed[m+1] = passed[m] + profile[m%minutesPerDay]
	}
	stretch := 3 * passed[len(recorded)] / float64(len(recorded)) * 60 // three hours' worth
	return func(random *rand.Rand, minutes int) []float64 {
		counts := make([]float64, minutes)
		at, left, day := 0, 0.0, 1.0
		part := 0.0 // of the recorded minute at which we are, how much is used up
		for m := range counts {
			if m%minutesPerDay == 0 {
				day = math.Exp(0.05 * random.NormFloat64())
			}
			need := profile[m%minutesPerDay] * weekday(m) * day
			for left -= need; need > 0; {
				if left < 0 {
					at, part, left = random.IntN(len(recorded)), 0, stretch*(0.5+random.Float64())
				}
				take := math.Min(need, (1-part)*profile[at%minutesPerDay])
				counts[m] += thin(random, recorded[at], take/profile[at%minutesPerDay])
				need -= take
				if part += take / profile[at%minutesPerDay]; part > 1-1e-9 {
					at, part = (at+1)%len(recorded), 0
				}
			}
		}
		return counts
	}
}

// dayProfile is the mean number of events by minute of the day, over three hours around it, and nowhere less than a twentieth
// of the mean.
func dayProfile(recorded []float64) []float64 {
	var sums [minutesPerDay]float64
	total := 0.0
	for m, n := range recorded {
		sums[m%minutesPerDay] += n
		total += n
	}
	days := float64(len(recorded)) / minutesPerDay
	profile := make([]float64, minutesPerDay)
	for m := range profile {
		for around := -90; around < 90; around++ {
			profile[m] += sums[(m+around+minutesPerDay)%minutesPerDay] / 180 / days
		}
		profile[m] = math.Max(profile[m], total/days/minutesPerDay/20)
	}
	return profile
}
