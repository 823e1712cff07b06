package backfill

import (
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"usaged/aggregator"
)

// The metrics of rules/health.yml that are written, or read.
const (
	observed  = "usage:activity:observed"
	quietTime = "usage:activity:quiet"
	allTypes  = "__all__"
)

var (
	// learned are what the rules make of their own earlier results, which an import does not change.
	learned = []string{observed, "usage:activity:kept", "usage:activity:down", "usage:activity:shift", "usage:activity:settled"}
	// derived are what the rules make of observed, of which they read the last days.
	derived = []string{"usage:activity:expected", "usage:activity:excess"}
	// hourly is what the rules make of those once an hour.
	hourly = []string{"usage:activity:restless"}
)

// window is how far back an observation looks.
type window struct {
	name   string
	length time.Duration
}

var windows = []window{{"15m", 15 * time.Minute}, {"1h", time.Hour}, {"6h", 6 * time.Hour}, {"1d", day}}

const (
	day = 24 * time.Hour
	// step is how far apart samples are: what a query looks back, so that none finds nothing.
	step = 5 * time.Minute
	// derivedTime is how far back these are derived: the rules read four weeks and make do with five days.
	derivedTime = 8 * day
)

// activity makes series of usage:activity:observed of what the journal knows.
//
// A sample is the number of events that were created in the window before it, as the rules' is of those that were counted in it.
// Like theirs, a type's series begins one window behind its first event, and is zero from then on where there is none.
//
// What the rules have recorded stays. Where they have not, before they began and in a gap, as while the daemon was off, the journal
// says how much was used; but in a gap only if late events say that somebody has imported what happened then, because
// otherwise it is not known that it was nothing. Nothing is written in times that were quiet.
type activity struct {
	past   *aggregator.Past
	grid   Grid
	oldest time.Time // before this nothing is written
	live   Recorded
	quiet  Recorded

	from time.Time // of the earliest sample
}

// series returns the series, those of all types behind those of each.
func (a *activity) series() iter.Seq[Series] {
	return func(yield func(Series) bool) {
		for _, w := range windows {
			all := newValues(a.grid.N)
			for _, eventType := range slices.Sorted(maps.Keys(a.past.Types)) {
				of := a.observe(a.past.Types[eventType], w)
				a.silence(of, eventType, w)
				all.add(of)
				if !yield(a.written(of, eventType, w)) {
					return
				}
			}
			a.silence(all, allTypes, w)
			if !yield(a.written(all, allTypes, w)) {
				return
			}
		}
	}
}

// values are numbers of events by the cells of the grid, where they are known.
type values struct {
	n     []uint64
	known []bool
}

func newValues(cells int) *values { return &values{make([]uint64, cells), make([]bool, cells)} }

func (v *values) add(other *values) {
	for i, known := range other.known {
		if known {
			v.n[i] += other.n[i]
			v.known[i] = true
		}
	}
}

// observe counts the events of a type in the windows before each cell.
func (a *activity) observe(events *aggregator.PastEvents, w window) *values {
	v := newValues(a.grid.N)
	begin := events.First
	if a.past.From.After(begin) {
		begin = a.past.From
	}
	first := max(a.grid.Cell(begin.Add(w.length-1).UnixMilli()+1), a.grid.Cell(a.oldest.UnixMilli()), int(w.length/step)-1)
	sums := slide(events.Counts, w)
	for i := max(first, 0); i < a.grid.N; i++ {
		v.n[i], v.known[i] = sums[i], true
	}
	return v
}

// slide returns for each cell the sum of the counts in the window up to it.
func slide(counts []uint32, w window) []uint64 {
	cells, sum := int(w.length/step), uint64(0)
	sums := make([]uint64, len(counts))
	for i, n := range counts {
		sum += uint64(n)
		if i >= cells {
			sum -= uint64(counts[i-cells])
		}
		sums[i] = sum
	}
	return sums
}

// silence forgets the cells whose windows have quiet times of a type.
func (a *activity) silence(v *values, eventType string, w window) {
	for _, name := range []string{eventType, allTypes} {
		last := -a.grid.N
		for i, quiet := range a.quiet.Of(labels.FromStrings(model.MetricNameLabel, quietTime, "event_type", name)) {
			if quiet {
				last = i
			}
			if i-last < int(w.length/step) {
				v.known[i] = false
			}
		}
	}
}

// written returns the samples of a series that are to be written.
func (a *activity) written(v *values, eventType string, w window) Series {
	s := Series{Labels: labels.FromStrings(model.MetricNameLabel, observed, "event_type", eventType, "window", w.name)}
	live := a.live.Of(s.Labels)
	begun := slices.Index(live, true)
	late := slide(a.past.Late, w)
	for i, known := range v.known {
		if !known || begun >= 0 && i >= begun && (live[i] || late[i] == 0) {
			continue
		}
		s.Samples = append(s.Samples, Sample{At: a.grid.At(i), Value: float64(v.n[i])})
	}
	if len(s.Samples) > 0 {
		if at := time.UnixMilli(s.Samples[0].At).UTC(); a.from.IsZero() || at.Before(a.from) {
			a.from = at
		}
	}
	return s
}
