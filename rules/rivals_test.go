package rules_test

import (
	"math"
	"slices"
)

// rival is another way to tell drops: the more a minute looks like one, the greater is its figure. It looks at 15 minutes, and
// fires when the figure was above a limit for five minutes.
type rival struct {
	name   string
	figure func(h *record, m int) float64
}

// rivals are what others do. Each gets the limit at which it has as many false incidents as our rules on the same traffic.
var rivals = []rival{
	{"a part of the mean", func(h *record, m int) float64 {
		return -h.sum(m, 15) / (h.sum(m, 4*minutesPerWeek)/4/minutesPerWeek*15 + 1)
	}},
	{"mean - sigmas of the day", func(h *record, m int) float64 {
		mean, sigma := h.day(m)
		return (mean - h.sum(m, 15)) / (sigma + 1)
	}},
	{"residual quantile", func(h *record, m int) float64 {
		e := h.expected(m)
		return (e - h.sum(m, 15)) / (h.quantile(m) + 1)
	}},
	{"EWMA of the residuals", func(h *record, m int) float64 { return h.ewma(m) }},
	{"CUSUM of the residuals", func(h *record, m int) float64 { return h.cusum(m) }},
	{"negative-binomial chart", func(h *record, m int) float64 {
		e := h.expected(m)
		return (e - h.sum(m, 15) - 1) / math.Sqrt(e+h.dispersion(m)*e*e+1)
	}},
}

// record is traffic with what the rivals know of its past, each hour anew.
type record struct {
	passed   []float64 // the events before a minute
	hourly   map[int]float64
	spread   map[int]float64
	residual []float64
	ewmas    []float64
	cusums   []float64
}

func newRecord(counts []float64) *record {
	h := &record{passed: make([]float64, len(counts)+1), hourly: map[int]float64{}, spread: map[int]float64{}}
	for m, n := range counts {
		h.passed[m+1] = h.passed[m] + n
	}
	h.residual, h.ewmas, h.cusums = make([]float64, len(counts)+1), make([]float64, len(counts)+1), make([]float64, len(counts)+1)
	for m := 2 * minutesPerWeek; m <= len(counts); m++ {
		h.chart(m)
	}
	return h
}

// chart goes on with the charts at a minute, from its residual in sigmas of chance.
func (h *record) chart(m int) {
	e := h.expected(m)
	h.residual[m] = (e - h.sum(m, 15)) / math.Sqrt(e+0.01*e*e+1)
	h.ewmas[m] = 0.9*h.ewmas[m-1] + 0.1*h.residual[m]
	h.cusums[m] = max(0, h.cusums[m-1]+h.residual[m]/15-0.05)
}

// change plays another number of events in a minute: what was counted from a minute on.
func (h *record) change(from int, counts []float64) func() {
	passed := slices.Clone(h.passed[from : from+len(counts)+1])
	charts := [][]float64{h.residual, h.ewmas, h.cusums}
	var kept [][]float64
	for _, c := range charts {
		kept = append(kept, slices.Clone(c[from:from+len(counts)+1]))
	}
	for i, n := range counts {
		h.passed[from+i+1] = h.passed[from+i] + n
		h.chart(from + i + 1)
	}
	return func() {
		copy(h.passed[from:], passed)
		for i, c := range charts {
			copy(c[from:], kept[i])
		}
	}
}

func (h *record) sum(m, minutes int) float64 { return h.passed[m] - h.passed[max(m-minutes, 0)] }

// expected is the median of the same time of the past four weeks, each averaged over an hour.
func (h *record) expected(m int) float64 {
	var past []float64
	for week := 1; week <= 4; week++ {
		if from := m - week*minutesPerWeek; from > 60 {
			past = append(past, h.sum(from+23, 60)/4)
		}
	}
	if len(past) == 0 {
		return 0
	}
	slices.Sort(past)
	return (past[(len(past)-1)/2] + past[len(past)/2]) / 2
}

// day is the mean and the standard deviation of a day of 15 minutes.
func (h *record) day(m int) (mean, sigma float64) {
	for i := range 96 {
		v := h.sum(m-i*15, 15)
		mean += v / 96
		sigma += v * v / 96
	}
	return mean, math.Sqrt(max(sigma-mean*mean, 0))
}

// quantile is what 99% of the residuals of two weeks are below.
func (h *record) quantile(m int) float64 {
	return remember(h.hourly, m/60*60, func(m int) float64 {
		var list []float64
		for t := m - 2*minutesPerWeek; t < m; t += 30 {
			list = append(list, max(h.expected(t)-h.sum(t, 15), 0))
		}
		slices.Sort(list)
		return list[len(list)*99/100]
	})
}

// dispersion is how much more than by chance it went up and down at this time of day in four weeks, as the square of a part.
func (h *record) dispersion(m int) float64 {
	return remember(h.spread, m/60*60, func(m int) float64 {
		sum, n := 0.0, 0.0
		for day := 1; day <= 28; day++ {
			for around := -90; around <= 90; around += 30 {
				t := m - day*minutesPerDay + around
				if e := h.expected(t); e >= 1 {
					sum += ((h.sum(t, 15)-e)*(h.sum(t, 15)-e) - e) / e / e
					n++
				}
			}
		}
		return max(sum/max(n, 1), 0.0025)
	})
}

func remember(known map[int]float64, m int, of func(int) float64) float64 {
	v, ok := known[m]
	if !ok {
		v = of(m)
		known[m] = v
	}
	return v
}

func (h *record) ewma(m int) float64  { return h.ewmas[m] }
func (h *record) cusum(m int) float64 { return h.cusums[m] }

// alarms are when a rival with a limit fires in a stretch, for half an hour after it is above it for the last time.
func (h *record) alarms(r rival, figures []float64, from int, limit float64) (list []firing) {
	above := 0
	for i, v := range figures {
		m := from + i
		if v > limit {
			above++
		} else {
			above = 0
		}
		if above < 6 {
			continue
		}
		if len(list) == 0 || m > minuteOf(list[len(list)-1].end) {
			list = append(list, firing{alert: r.name, start: at(m)})
		}
		list[len(list)-1].end = at(m + 30)
	}
	return list
}

// figures are those of a stretch.
func (h *record) figures(r rival, s span) []float64 {
	list := make([]float64, 0, s.to-s.from)
	for m := s.from; m < s.to; m++ {
		list = append(list, r.figure(h, m))
	}
	return list
}
