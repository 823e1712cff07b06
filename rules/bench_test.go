package rules_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
)

// What make bench-score sets: that the whole is to be played, a trace to play instead, how many drops of each depth, and a file for the
// table as JSON.
const (
	scoreEnv = "USAGE_BENCH_SCORE"
	traceEnv = "USAGE_BENCH_TRACE"
	timesEnv = "USAGE_BENCH_TIMES"
	jsonEnv  = "USAGE_BENCH_JSON"
)

const (
	// drawn is how long made traffic is, longest what is played of a recording.
	drawn   = 10 * minutesPerWeek
	longest = 14 * minutesPerWeek
	// inTime is within how many minutes a drop shall be told.
	inTime = 30
)

// changes are what is done to traffic: how many times as many events there are.
var changes = []float64{0.5, 0.3, 0.1, 0, 3}

// row is a line of the table: what was told of one subject.
type row struct {
	Traffic   string              `json:"traffic"`
	Days      float64             `json:"days"` // in which there was nothing to tell
	Alarms    int                 `json:"false_alarms"`
	Incidents int                 `json:"false_incidents"`
	Times     int                 `json:"times"`       // of each change
	InTime    map[string]int      `json:"told_in_30m"` // by what was left
	Rivals    map[string]rivalRow `json:"rivals"`
}

// rivalRow is what a rival told of the same, with the limit that has as many false incidents.
type rivalRow struct {
	Incidents int            `json:"false_incidents"`
	InTime    map[string]int `json:"told_in_30m"`
}

// TestBenchScore plays what is in docs/detection.md and prints the tables.
func TestBenchScore(t *testing.T) {
	if os.Getenv(scoreEnv) == "" {
		t.Skip("make bench-score runs it: it takes a while")
	}
	times := 16
	if n, err := strconv.Atoi(os.Getenv(timesEnv)); err == nil && n > 0 {
		times = n
	}
	var list []subject
	if path := os.Getenv(traceEnv); path != "" {
		list = traceSubjects(t, path)
	} else {
		for _, path := range recordings() {
			list = append(list, traceSubjects(t, path)...)
		}
		list = append(list, madeSubjects()...)
	}
	var rows []row
	for _, s := range list {
		rows = append(rows, benchSubject(t, s, times))
		if err := printRows(os.Stdout, rows[len(rows)-1:]); err != nil {
			t.Fatal(err)
		}
	}
	if path := os.Getenv(jsonEnv); path != "" {
		text, err := json.MarshalIndent(rows, "", " ")
		if err == nil {
			err = os.WriteFile(path, append(text, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// recordings returns the files of recorded traffic that there are.
func recordings() (list []string) {
	dir := os.Getenv("USAGE_TESTDATA")
	if dir == "" {
		dir = "../../shared/data"
	}
	for _, name := range []string{"nasa", "calls", "bike"} {
		if path := dir + "/traffic/" + name + ".csv.gz"; exists(path) {
			list = append(list, path)
		}
	}
	return list
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// traceSubjects reads a trace, whose counts of five minutes and more are spread over their minutes at random.
func traceSubjects(t testing.TB, path string) []subject {
	t.Helper()
	tr, err := readTrace(path)
	if err != nil {
		t.Fatal(err)
	}
	list := tr.subjects(8)
	if len(list) > 1 {
		list = list[1:] // without all together: each is all of its world
	}
	for i := range list {
		list[i].name = fmt.Sprintf("%s, %.3g/h", list[i].name, list[i].perHour)
	}
	return list
}

// madeSubjects are steady and bursty traffic.
func madeSubjects() (list []subject) {
	for _, rate := range []float64{20, 100, 200, 500, 1000, 5000} {
		list = append(list, subject{name: fmt.Sprintf("steady, %g/h", rate), draw: steady(rate)})
	}
	for _, rate := range []float64{200, 1000, 5000} {
		list = append(list, subject{name: fmt.Sprintf("bursty, %g/h", rate), draw: bursty(rate)})
	}
	return list
}

// benchSubject plays a subject as it is, counting alarms, and at so many times what happens when it changes.
func benchSubject(t testing.TB, s subject, times int) row {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 3))
	minutes := drawn
	if s.minutes > 0 {
		minutes = min(s.minutes, longest)
	}
	counts := s.draw(random, minutes)
	w := newWorld(t)
	p := w.player(counts)
	r := row{Traffic: s.name, InTime: map[string]int{}, Rivals: map[string]rivalRow{}}
	from := 4*minutesPerWeek + minutesPerDay
	h := newRecord(counts)
	var starts []int
	var limits [][]float64
	var changed [][][]float64
	for i := range times {
		start := p.busy(random, h, from+(minutes-from-120)*i/times, (minutes-from-120)/times)
		p.life.until(start)
		starts = append(starts, start)
		var list [][]float64
		for _, left := range changes {
			altered := alter(random, counts[start:start+inTime], left)
			list = append(list, altered)
			if p.told(start, altered, left > 1) {
				r.InTime[changeName(left)]++
			}
		}
		changed = append(changed, list)
	}
	p.life.until(minutes - 1)
	r.Times = len(starts)
	r.Days = float64(minutes-from) / minutesPerDay
	r.Alarms, r.Incidents = incidents(about(p.life.fired(), alerts...), from)
	drops := about(p.life.fired(), alerts[:3]...)
	_, equal := incidents(drops, from)
	_ = limits
	for _, v := range rivals {
		r.Rivals[v.name] = benchRival(v, h, span{from, minutes}, starts, changed, equal)
	}
	return r
}

// benchRival finds the least limit with no more false incidents than equal, and looks what a rival tells with it.
func benchRival(v rival, h *record, s span, starts []int, changed [][][]float64, equal int) rivalRow {
	figures := h.figures(v, s)
	sorted := slices.Clone(figures)
	slices.Sort(sorted)
	limit := sorted[len(sorted)-1]
	for left := 1.0 / 4096; left < 0.1; left *= 1.1 { // from no alarms on, as long as there are not too many
		next := sorted[len(sorted)-1-int(left*float64(len(sorted)))]
		if _, n := incidents(h.alarms(v, figures, s.from, next), s.from); n > equal {
			break
		}
		limit = next
	}
	r := rivalRow{InTime: map[string]int{}}
	_, r.Incidents = incidents(h.alarms(v, figures, s.from, limit), s.from)
	for i, start := range starts {
		for c, altered := range changed[i] {
			if changes[c] > 1 {
				continue
			}
			restore := h.change(start, altered)
			list := h.alarms(v, h.figures(v, span{start - 60, start + inTime + 1}), start-60, limit)
			if len(list) > 0 && minuteOf(list[len(list)-1].start) > start {
				r.InTime[changeName(changes[c])]++
			}
			restore()
		}
	}
	return r
}

func changeName(left float64) string {
	if left > 1 {
		return fmt.Sprintf("x%g", left)
	}
	return fmt.Sprintf("-%.0f%%", 100-100*left)
}

// alter returns what is left of the events, or what there would be of more.
func alter(random *rand.Rand, counts []float64, left float64) []float64 {
	list := make([]float64, len(counts))
	for i, n := range counts {
		if list[i] = n * left; left < 1 {
			list[i] = thin(random, n, left)
		}
	}
	return list
}

// printRows writes the tables.
func printRows(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "traffic\twho\tdays\tfalse alarms\tincidents\ttimes")
	for _, left := range changes {
		fmt.Fprint(t, "\t", changeName(left))
	}
	fmt.Fprintln(t)
	for _, r := range rows {
		fmt.Fprintf(t, "%s\tusaged\t%.0f\t%d\t%d\t%d", r.Traffic, r.Days, r.Alarms, r.Incidents, r.Times)
		for _, left := range changes {
			fmt.Fprintf(t, "\t%d", r.InTime[changeName(left)])
		}
		fmt.Fprintln(t)
		for _, v := range rivals {
			fmt.Fprintf(t, "\t%s\t\t\t%d\t", v.name, r.Rivals[v.name].Incidents)
			for _, left := range changes[:4] {
				fmt.Fprintf(t, "\t%d", r.Rivals[v.name].InTime[changeName(left)])
			}
			fmt.Fprintln(t)
		}
	}
	return t.Flush()
}
