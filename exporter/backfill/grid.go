package backfill

import (
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Grid is a row of times, Step apart: Start + Step, Start + 2·Step, … Start + N·Step.
type Grid struct {
	Start time.Time
	Step  time.Duration
	N     int
}

// At returns the time of a cell, the first of which is 0, in Unix milliseconds.
func (g Grid) At(i int) int64 { return g.Start.UnixMilli() + int64(i+1)*g.Step.Milliseconds() }

// Cell returns the first cell that lies at or behind a time, which is N or more behind the last, and negative before the first
// cell's Step.
func (g Grid) Cell(millis int64) int {
	step := g.Step.Milliseconds()
	return int((millis-g.Start.UnixMilli()+step-1)/step) - 1
}

// Until returns the time of the last cell.
func (g Grid) Until() time.Time { return g.Start.Add(time.Duration(g.N) * g.Step) }

// last returns the whole steps of another length in the last part of a grid.
func (g Grid) last(length, step time.Duration) Grid {
	n := int(min(length, time.Duration(g.N)*g.Step) / step)
	return Grid{Start: g.Until().Truncate(step).Add(-time.Duration(n) * step), Step: step, N: n}
}

// Series are samples of one series, in the order of time.
type Series struct {
	Labels  labels.Labels
	Samples []Sample
}

// Sample is a value at a time, in Unix milliseconds.
type Sample struct {
	At    int64
	Value float64
}

// Recorded says of the series of a metric in which cells of a grid they have samples: in the Step up to the cell's time.
type Recorded map[string][]bool

// Of returns the cells of a series, nil where it has no samples.
func (r Recorded) Of(series labels.Labels) []bool { return r[string(series.Bytes(nil))] }

// Add returns the cells of a series, to be set.
func (r Recorded) Add(series labels.Labels, g Grid) []bool {
	key := string(series.Bytes(nil))
	if r[key] == nil {
		r[key] = make([]bool, g.N)
	}
	return r[key]
}
