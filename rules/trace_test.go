package rules_test

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// wholeTrace is how many minutes from a Monday on are enough: the history, and a week in which drops begin.
const wholeTrace = history + 10*minutesPerDay

// trace is recorded events by type and minute, from midnight on.
type trace struct {
	start  time.Time
	length time.Duration // from the first event to the last
	whole  int           // minutes before a last day that is not complete
	types  map[string][]float64
}

// A trace file has a line per event, or per type and minute, or longer, with a count, as NDJSON or CSV with a head line, and may be
// gzipped.
var (
	timeFields  = []string{"time", "created_at", "timestamp", "ts", "minute"}
	typeFields  = []string{"event_type", "type", "event", "channel"}
	countFields = []string{"count", "events", "n"}
)

// readTrace reads a trace file. Lines need not be sorted.
func readTrace(path string) (*trace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var input io.Reader = file
	if strings.HasSuffix(path, ".gz") {
		if input, err = gzip.NewReader(file); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	text := bufio.NewReaderSize(input, 1<<20)
	var next func() (map[string]any, error)
	line := 1
	if first, err := text.Peek(1); err == nil && first[0] == '{' {
		next = jsonLines(text)
	} else {
		next, line = csvLines(text), 2
	}
	var list []mark
	for ; ; line++ {
		fields, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s line %d: %w", path, line, err)
		}
		m, err := parseMark(fields)
		if err != nil {
			return nil, fmt.Errorf("%s line %d: %w", path, line, err)
		}
		list = append(list, m)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s has no events", path)
	}
	return newTrace(list), nil
}

func jsonLines(r io.Reader) func() (map[string]any, error) {
	decoder := json.NewDecoder(r)
	decoder.UseNumber()
	return func() (map[string]any, error) {
		var fields map[string]any
		err := decoder.Decode(&fields)
		return fields, err
	}
}

func csvLines(r io.Reader) func() (map[string]any, error) {
	lines := csv.NewReader(r)
	head, headErr := lines.Read()
	return func() (map[string]any, error) {
		if headErr != nil {
			return nil, headErr
		}
		cells, err := lines.Read()
		fields := map[string]any{}
		for i, cell := range cells {
			fields[strings.ToLower(strings.TrimSpace(head[i]))] = strings.TrimSpace(cell)
		}
		return fields, err
	}
}

// mark is one line of a trace.
type mark struct {
	at        time.Time
	eventType string
	count     float64
}

func parseMark(fields map[string]any) (mark, error) {
	m := mark{eventType: field(fields, typeFields), count: 1}
	if m.eventType == "" {
		m.eventType = "event"
	}
	if text := field(fields, countFields); text != "" {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n < 0 {
			return m, fmt.Errorf("%q is no count", text)
		}
		m.count = n
	}
	text := field(fields, timeFields)
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		m.at, err = time.Parse(time.RFC3339, text)
		return m, err
	}
	if seconds > 1e11 {
		seconds /= 1000
	}
	m.at = time.Unix(int64(seconds), 0).UTC()
	return m, nil
}

// field returns the first of the fields that there is.
func field(fields map[string]any, names []string) string {
	for _, name := range names {
		switch v := fields[name].(type) {
		case string:
			return v
		case json.Number:
			return v.String()
		}
	}
	return ""
}

func newTrace(list []mark) *trace {
	first, last := list[0].at, list[0].at
	for _, m := range list {
		if m.at.Before(first) {
			first = m.at
		}
		if m.at.After(last) {
			last = m.at
		}
	}
	tr := &trace{start: first.UTC().Truncate(24 * time.Hour), length: last.Sub(first), types: map[string][]float64{}}
	apart := apart(list)
	last = last.Add(time.Duration(apart-1) * time.Minute)
	days := int(last.Sub(tr.start)/(24*time.Hour)) + 1
	tr.whole = int(last.Add(time.Hour).Sub(tr.start)/(24*time.Hour)) * minutesPerDay
	for _, m := range list {
		counts := tr.types[m.eventType]
		if counts == nil {
			counts = make([]float64, days*minutesPerDay)
			tr.types[m.eventType] = counts
		}
		at := int(m.at.Sub(tr.start) / time.Minute)
		for i := range apart { // whole numbers that differ by one at most
			counts[at+i] += math.Floor(m.count*float64(i+1)/float64(apart)) - math.Floor(m.count*float64(i)/float64(apart))
		}
	}
	for _, counts := range tr.types {
		mend(counts, int(first.Sub(tr.start)/time.Minute), int(last.Sub(tr.start)/time.Minute)+1)
	}
	return tr
}

// apart returns how many minutes the marks are apart where that is a rule, at most an hour, and else 1: each counts what came in so
// many minutes from its time on.
func apart(list []mark) int {
	minutes := map[int64]bool{}
	for _, m := range list {
		minutes[m.at.Unix()/60] = true
	}
	sorted := slices.Sorted(maps.Keys(minutes))
	step := int64(0)
	for i := 1; i < len(sorted); i++ {
		for rest := sorted[i] - sorted[i-1]; rest != 0; { // the greatest common divisor
			step, rest = rest, step%rest
		}
	}
	return int(min(max(step, 1), 60))
}

// mend fills the minutes of the first and the last day that were not recorded with their neighbours, mirrored.
func mend(counts []float64, from, to int) {
	for m := range from {
		counts[m] = counts[min(2*from-m, to-1)]
	}
	for m := to; m < len(counts); m++ {
		counts[m] = counts[max(2*to-m-1, min(from+1, to-1))]
	}
}

// allTypes names the sum of the types as a subject.
const allTypes = "all types"

// subjects returns the types with most events, at most so many, and all together. What is long enough is played as it was; of
// others, replay makes weeks, from the days on which there was anything.
func (tr *trace) subjects(most int) (list []subject) {
	sum := tr.sum()
	totals := map[string]float64{}
	for name, counts := range tr.types {
		totals[name] = perHour(counts)
	}
	names := slices.SortedFunc(maps.Keys(totals), func(a, b string) int {
		return cmp.Or(cmp.Compare(totals[b], totals[a]), cmp.Compare(a, b))
	})
	if len(names) > 1 {
		list = append(list, tr.subject(allTypes, sum, sum))
	}
	for _, name := range names[:min(most, len(names))] {
		list = append(list, tr.subject(name, tr.types[name], sum))
	}
	return list
}

func (tr *trace) subject(name string, counts, sum []float64) subject {
	var kept []float64
	for day := 0; day < len(sum); day += minutesPerDay {
		if slices.Max(sum[day:day+minutesPerDay]) > 0 {
			kept = append(kept, counts[day:day+minutesPerDay]...)
		}
	}
	monday := (8 - int(tr.start.Weekday())) % 7 * minutesPerDay
	if tr.whole-monday >= wholeTrace {
		return recorded(name, counts[monday:tr.whole])
	}
	return subject{name: name, perHour: perHour(kept), draw: replay(kept)}
}

// sum is all types together.
func (tr *trace) sum() (sum []float64) {
	for _, counts := range tr.types {
		sum = append(sum, make([]float64, len(counts)-len(sum))...)
		for m, n := range counts {
			sum[m] += n
		}
	}
	return sum
}

// recorded is what was recorded, as it was, from any Monday on.
func recorded(name string, counts []float64) subject {
	return subject{name: name, perHour: perHour(counts), minutes: len(counts), draw: func(random *rand.Rand, minutes int) []float64 {
		from := random.IntN((len(counts)-minutes)/minutesPerWeek+1) * minutesPerWeek
		return slices.Clone(counts[from : from+minutes])
	}}
}

func perHour(counts []float64) float64 {
	sum := 0.0
	for _, n := range counts {
		sum += n
	}
	return sum / float64(len(counts)) * 60
}
