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
	"time"
)

// What make bench-score sets: that the whole is to be played, a trace to play instead, how many times, and a file for the table as JSON.
const (
	scoreEnv = "USAGE_BENCH_SCORE"
	traceEnv = "USAGE_BENCH_TRACE"
	timesEnv = "USAGE_BENCH_TIMES"
	jsonEnv  = "USAGE_BENCH_JSON"
)

// row is a line of the table: what the detectors made of one kind of trial.
type row struct {
	Traffic   string            `json:"traffic"`
	Scenario  string            `json:"scenario"`
	Trials    int               `json:"trials"`
	Detectors map[string]result `json:"detectors"`
}

// result counts in how many trials an alert came in time, and alarms about nothing.
type result struct {
	Within30m     int     `json:"within_30m"`
	Within1h      int     `json:"within_1h"`
	Within12h     int     `json:"within_12h"`
	Ever          int     `json:"ever"`
	MedianMinutes int     `json:"median_minutes"` // -1 where fewer than half were told
	Alarms        int     `json:"false_alarms"`
	Days          float64 `json:"days"` // in which there was nothing to tell
}

func (b *scoreboard) rows() (list []row) {
	sums := b.sum()
	var keys [][2]string
	for _, o := range b.list {
		if key := [2]string{o.subject, o.scenario}; !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		r := row{Traffic: key[0], Scenario: key[1], Detectors: map[string]result{}}
		for _, d := range detectors {
			s := sums[[3]string{key[0], key[1], d}]
			r.Trials = s.trials
			r.Detectors[d] = result{
				Within30m: s.within(30), Within1h: s.within(60), Within12h: s.within(720), Ever: len(s.delays),
				MedianMinutes: s.median(), Alarms: s.alarms, Days: s.days,
			}
		}
		list = append(list, r)
	}
	return list
}

// printRows writes the table: trials with something to tell, and those without.
func printRows(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "traffic\tscenario\ttrials")
	for _, name := range []string{"usaged", "half of the mean", "mean - 3 sigma", "adaptive band"} {
		fmt.Fprintf(t, "\t| %s\t\t\t", name)
	}
	fmt.Fprint(t, "\n\t\t\t| 30m\t12h\tmedian\tfalse\t| 30m\t12h\tmedian\tfalse\t| 30m\t12h\tmedian\tfalse\t| 30m\t12h\tmedian\tfalse\n")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%d", r.Traffic, r.Scenario, r.Trials)
		for _, d := range detectors {
			v := r.Detectors[d]
			if r.Scenario == undisturbed {
				fmt.Fprintf(t, "\t|\t\t\t%.2f/28d", float64(v.Alarms)/v.Days*28)
				continue
			}
			median := "-"
			if v.MedianMinutes >= 0 {
				median = (time.Duration(v.MedianMinutes) * time.Minute).String()
				median = median[:len(median)-2]
			}
			fmt.Fprintf(t, "\t| %d\t%d\t%s\t%d", v.Within30m, v.Within12h, median, v.Alarms)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// TestBenchScore plays what is in docs/detection.md and prints the table.
func TestBenchScore(t *testing.T) {
	if os.Getenv(scoreEnv) == "" {
		t.Skip("make bench-score runs it: it takes a while")
	}
	times := 12
	if n, err := strconv.Atoi(os.Getenv(timesEnv)); err == nil && n > 0 {
		times = n
	}
	b := &scoreboard{}
	if path := os.Getenv(traceEnv); path != "" {
		benchTrace(t, b, path, times)
		b.tell(t)
		return
	}
	benchMade(t, b, times)
	b.tell(t)
	for _, path := range realTraces() {
		benchTrace(t, b, path, max(1, times/3))
		b.tell(t)
	}
	benchOther(t, b, times)
	b.tell(t)
}

// tell prints what has been added since it was called last, and writes all.
func (b *scoreboard) tell(t *testing.T) {
	t.Helper()
	rows := b.rows()
	if err := printRows(os.Stdout, rows[b.told:]); err != nil {
		t.Fatal(err)
	}
	b.told = len(rows)
	path := os.Getenv(jsonEnv)
	if path == "" {
		return
	}
	text, err := json.MarshalIndent(rows, "", " ")
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// realTraces returns the traces of the real data that there are.
func realTraces() (list []string) {
	for _, name := range []string{"events/wikiticker-2015-09-12-sampled.json.gz", "llm_usage/aider_analytics_2024-08_2025-04.jsonl.gz"} {
		dir := os.Getenv("USAGE_TESTDATA")
		if dir == "" {
			dir = "../../shared/data"
		}
		if _, err := os.Stat(dir + "/" + name); err == nil {
			list = append(list, dir+"/"+name)
		}
	}
	return list
}

var depths = []float64{0.3, 0.5, 0.7, 0.9, 1}

// undisturbed is the scenario in which nothing happens.
const undisturbed = "nothing, 28 days"

// benchMade plays made traffic: drops at any time of the week, at which so many events an hour are expected, and months without.
func benchMade(t *testing.T, b *scoreboard, times int) {
	t.Helper()
	kinds := map[string]func(float64) func(*rand.Rand, int) []float64{"steady": steady, "bursty": bursty}
	fast, slow := []float64{200, 500, 1000, 5000, 50000}, []float64{5, 20, 50, 100}
	for _, kind := range []string{"steady", "bursty"} {
		for i := range times {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			start := anyTime(random)
			of := func(rates []float64) (list []subject) {
				for _, rate := range rates {
					list = append(list, subject{name: fmt.Sprintf("%s, %g/h", kind, rate), draw: kinds[kind](rate / season(start))})
				}
				return list
			}
			b.drops(t, random, of(fast), depths, span{start, start + 2*60}, 60)
			if i < max(1, times/2) {
				b.drops(t, random, of(slow), depths, span{start, start + 24*60}, 60)
			}
		}
		for i := range max(1, times/4) {
			var list []subject
			for _, rate := range append(slices.Clone(slow), fast...) {
				list = append(list, subject{name: fmt.Sprintf("%s, %g/h", kind, rate), draw: kinds[kind](rate)})
			}
			b.month(t, rand.New(rand.NewPCG(uint64(i), 2)), list)
		}
	}
}

// benchTrace plays what was recorded.
func benchTrace(t *testing.T, b *scoreboard, path string, times int) {
	t.Helper()
	tr, err := readTrace(path)
	if err != nil {
		t.Fatal(err)
	}
	if tr.length < 20*time.Hour {
		t.Fatalf("%s is %v long: give a day at least", path, tr.length)
	}
	list := tr.subjects(8)
	for i := range list {
		list[i].name = fmt.Sprintf("%s, %.3g/h", list[i].name, list[i].perHour)
		if list[i].minutes == 0 {
			list[i].name += ", replayed"
		}
	}
	for i := range times {
		random := rand.New(rand.NewPCG(uint64(i), 3))
		start := anyTime(random)
		b.drops(t, random, list, []float64{0.5, 0.7, 0.9, 1}, span{start, start + 12*60}, 60)
	}
	for i := range max(1, times/4) {
		b.month(t, rand.New(rand.NewPCG(uint64(i), 4)), list)
	}
}

// anyTime returns a half hour of the week after the history.
func anyTime(random *rand.Rand) int {
	return history + minutesPerDay + random.IntN(minutesPerWeek/30)*30
}

// drops plays a drop of each depth in each subject.
func (b *scoreboard) drops(t *testing.T, random *rand.Rand, subjects []subject, depths []float64, harm span, after int) {
	t.Helper()
	s := span{harm.from - 30, harm.to + settle + after}
	var trials []trial
	for _, subject := range subjects {
		for _, depth := range depths {
			counts := subject.draw(random, s.to+1)
			drop(random, counts, harm, depth)
			scenario := fmt.Sprintf("%.0f%% less", depth*100)
			trials = append(trials, trial{subject: subject.name, scenario: scenario, lane: &lane{name: subject.name + ": " + scenario, counts: counts}, harm: harm})
		}
	}
	b.run(t, trials, noLag, s, time.Minute)
}

// month plays four weeks in which nothing happens, every five minutes: an alert that holds for five minutes needs two evaluations then.
func (b *scoreboard) month(t *testing.T, random *rand.Rand, subjects []subject) {
	t.Helper()
	for _, subject := range subjects {
		s := span{history, history + 4*minutesPerWeek}
		if subject.minutes > 0 {
			s.to = min(s.to, subject.minutes/30*30-30)
		}
		counts := subject.draw(random, s.to+1)
		b.run(t, []trial{{subject: subject.name, scenario: undisturbed, lane: &lane{name: subject.name, counts: counts}}}, noLag, s, 5*time.Minute)
	}
}
