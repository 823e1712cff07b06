package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/guptarohit/asciigraph"
)

const (
	// maxLines is how many series a chart can show apart.
	maxLines = 8
	// chartHeight and chartWidth hold where the terminal does not say.
	chartHeight = 15
	chartWidth  = 100
	// axisWidth is what the numbers at the left take.
	axisWidth = 14
)

var lineColors = [maxLines]asciigraph.AnsiColor{
	asciigraph.Blue, asciigraph.Red, asciigraph.Green, asciigraph.Yellow,
	asciigraph.Magenta, asciigraph.Cyan, asciigraph.White, asciigraph.Gray,
}

// draw draws the series over the range.
func (c *queryCommand) draw(s *session, result []promSeries) error {
	if len(result) > maxLines {
		return fmt.Errorf("the expression has %d series, and a chart shows %d at most: choose with topk(%d, …), or sum some", len(result), maxLines, maxLines)
	}
	begin := c.evaluatedAt.Add(-time.Duration(c.span))
	var lines [][]float64
	var names []string
	for _, series := range result {
		lines, names = append(lines, c.line(series, begin)), append(names, printable(series.name))
	}
	options := []asciigraph.Option{
		asciigraph.Height(chartHeight),
		asciigraph.Width(max(c.width(s)-axisWidth, 10)),
		asciigraph.Caption(fmt.Sprintf("%s to %s (UTC), a value every %s", begin.UTC().Format(time.DateTime), c.evaluatedAt.UTC().Format(time.DateTime), c.step)),
	}
	coloured := s.colours()
	if coloured {
		options = append(options, asciigraph.SeriesColors(lineColors[:len(lines)]...), asciigraph.SeriesLegends(names...))
	}
	fmt.Fprintln(s.stdout, asciigraph.PlotMany(lines, options...))
	if !coloured { // where there are no colours, the names are all that can be said
		fmt.Fprintln(s.stdout, "\n"+strings.Join(names, "\n"))
	}
	return nil
}

func (c *queryCommand) width(s *session) int {
	if width := s.columns(); width > 0 {
		return width
	}
	return chartWidth
}

// line gives a series a value for each step, and none where it has none.
func (c *queryCommand) line(series promSeries, begin time.Time) []float64 {
	step := time.Duration(c.step)
	line := make([]float64, int(time.Duration(c.span)/step)+1)
	for i := range line {
		line[i] = math.NaN()
	}
	for i, at := range series.times {
		if n := int(math.Round(float64(at.Sub(begin)) / float64(step))); n >= 0 && n < len(line) && !math.IsInf(series.values[i], 0) {
			line[n] = series.values[i]
		}
	}
	return line
}
