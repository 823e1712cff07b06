package main

import (
	"fmt"
	"hash/fnv"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"usaged/client"
)

// traffic is a made-up company whose people and jobs use a data platform. What happens in a minute follows from the
// parameters and the minute alone, so that any window of time can be made again, also as a part of a longer one: the same
// parameters give the same events with the same ids.
type traffic struct {
	seed     uint64
	perDay   float64 // events a day, averaged over a week
	scenario scenario

	tag    string   // part of ids: other parameters make other events
	people ranking  // the first are the busiest
	teams  []string // of the people
}

// kind is one event type.
type kind struct {
	name  string
	share float64 // of all events
	night float64 // share that scheduled jobs send, evenly over day and week
	fill  func(*writer) map[string]string
}

var kinds = []kind{
	{"sql_execution", 0.45, 0.25, (*writer).execution},
	{"sql_generation", 0.30, 0.02, (*writer).generation},
	{"spreadsheet_formula", 0.17, 0, (*writer).formula},
	{"dashboard_publish", 0.08, 0.10, (*writer).publication},
}

func kindNames() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// officeHours is the shape of a working day (UTC), the weight of each hour: people in two time zones, with a lunch between.
var officeHours = [24]float64{
	0.05, 0.03, 0.02, 0.02, 0.04, 0.15, 0.6, 1.8, 2.9, 3.2, 2.9, 2.1, 2.0, 2.7, 2.9, 2.5, 1.9, 1.3, 0.9, 0.6, 0.4, 0.25, 0.15, 0.08,
}

// weekdays are the weights of the days of a week, from Sunday.
var weekdays = [7]float64{0.12, 1.25, 1.4, 1.42, 1.36, 1.1, 0.15}

// newTraffic makes the people.
func newTraffic(seed uint64, users int, perDay float64, sc scenario) *traffic {
	t := &traffic{seed: seed, perDay: perDay, scenario: sc}
	digest := fnv.New32a()
	fmt.Fprintf(digest, "%d %d %g", seed, users, perDay)
	t.tag = fmt.Sprintf("sim-%08x", digest.Sum32())
	r := t.random("people", 0)
	names := make([]string, users)
	for i := range names {
		names[i] = personName(i)
		t.teams = append(t.teams, teams.words[teams.draw(r)])
	}
	t.people = ranked(names)
	return t
}

// ranking is a list of words of which the first are drawn most, by Zipf's law.
type ranking struct {
	words []string
	sums  []float64 // of the weights up to each word
}

func ranked(words []string) ranking {
	const exponent = 0.9
	k, sum := ranking{words: words}, 0.0
	for i := range words {
		sum += math.Pow(float64(i+1), -exponent)
		k.sums = append(k.sums, sum)
	}
	return k
}

// draw returns the index of a word.
func (k *ranking) draw(r *rand.Rand) int {
	last := len(k.sums) - 1
	i, _ := slices.BinarySearch(k.sums, r.Float64()*k.sums[last])
	return min(i, last)
}

func (k *ranking) word(r *rand.Rand) string { return k.words[k.draw(r)] }

// random is a stream of numbers of its own for each purpose and minute.
func (t *traffic) random(purpose string, minute int64) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, purpose)
	return rand.New(rand.NewPCG(t.seed^h.Sum64(), uint64(minute)))
}

// rate is how many events of a kind are expected in an hour.
func (t *traffic) rate(k kind, hour time.Time) float64 {
	office := officeHours[hour.Hour()] * weekdays[hour.Weekday()] / officeSum
	return t.perDay * k.share * (k.night/24 + (1-k.night)*office)
}

// officeSum makes the rates of a week add up to seven times those of an average day.
var officeSum = func() (sum float64) {
	for _, w := range officeHours {
		sum += w
	}
	week := 0.0
	for _, w := range weekdays {
		week += w
	}
	return sum * week / 7
}()

// between are the events of a window of time, oldest first.
func (t *traffic) between(from, to time.Time) iter.Seq[client.Event] {
	return func(yield func(client.Event) bool) {
		for minute := from.Truncate(time.Minute); minute.Before(to); minute = minute.Add(time.Minute) {
			for _, e := range t.minute(minute) {
				if !e.CreatedAt.Before(from) && e.CreatedAt.Before(to) && !yield(e) {
					return
				}
			}
		}
	}
}

// minute makes the events of a minute, oldest first.
func (t *traffic) minute(minute time.Time) []client.Event {
	minute = minute.UTC()
	var events []client.Event
	for _, k := range kinds {
		events = append(events, t.kindOfMinute(k, minute)...)
	}
	slices.SortStableFunc(events, func(a, b client.Event) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return events
}

// kindOfMinute makes the events of one type in a minute: a Poisson process, whose gaps are exponential. The scenario takes
// events away, and leaves those that remain as they were.
func (t *traffic) kindOfMinute(k kind, minute time.Time) (events []client.Event) {
	number := minute.Unix() / int64(time.Minute/time.Second)
	w := &writer{r: t.random(k.name, number)}
	rate := t.rate(k, minute) / 60
	for n, at := 0, w.r.ExpFloat64()/rate; at < 1; n, at = n+1, at+w.r.ExpFloat64()/rate {
		when := minute.Add(time.Duration(at * float64(time.Minute))).Truncate(time.Millisecond)
		effect := t.scenario.at(k.name, when)
		e := t.event(k, w, effect)
		e.ID = fmt.Sprintf("%s-%d-%s-%d", t.tag, number, k.name, n)
		e.CreatedAt = when
		if w.r.Float64() >= effect.lost {
			events = append(events, e)
		}
	}
	return events
}

// event makes an event. It draws the same numbers whatever the effect is.
func (t *traffic) event(k kind, w *writer, effect effect) client.Event {
	job := w.r.Float64() < k.night
	failed := w.r.Float64() < effect.failing
	who := t.people.draw(w.r)
	e := client.Event{UserID: t.people.words[who], Source: t.teams[who], Type: k.name, Metadata: k.fill(w)}
	if job {
		e.UserID, e.Source = "svc-"+e.Source, "scheduler"
	}
	e.Metadata["outcome"] = "success"
	if failed {
		e.Metadata["outcome"] = "failure"
	}
	return e
}

// expected is about how many events lie in a window, for the progress bar.
func (t *traffic) expected(from, to time.Time) (n float64) {
	for hour := from.Truncate(time.Hour); hour.Before(to); hour = hour.Add(time.Hour) {
		for _, k := range kinds {
			n += t.rate(k, hour.UTC())
		}
	}
	return n
}

// personName names the i-th person. When all pairs of names are used up they come again with a number.
func personName(i int) string {
	name := firstNames[i%len(firstNames)] + "." + lastNames[(5*i+i/len(firstNames))%len(lastNames)]
	if round := i / len(firstNames) / len(lastNames); round > 0 {
		name += strconv.Itoa(round + 1)
	}
	return name
}

var (
	firstNames = strings.Fields("ada bruno carla deniz elif farah goran hana ines jonas kaito lena mateo nadia oscar priya " +
		"quentin rosa samir tomas uma vera wanda ximena yusuf zoe")
	lastNames = strings.Fields("almeida bauer costa dubois eriksson fischer garcia horvat ivanov jensen kowalski lopez moreau " +
		"novak okafor petrov rossi silva tanaka ueda varga weber yilmaz zhang")
	teams = ranked(strings.Fields("finance sales supply-chain marketing operations support pricing hr risk research"))
)
