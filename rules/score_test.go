package rules_test

import (
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// detectors are the alerts that are compared.
var detectors = []string{"UsageActivityDropped", "PeerFixed", "PeerSigma", "PeerAdaptive"}

// judged returns the rules that the detectors need.
func judged(t testing.TB) []rulefmt.RuleGroup {
	t.Helper()
	const path = "testdata/peers.yml"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	peers, errs := rulefmt.Parse(data, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Fatalf("%s: %v", path, err)
	}
	groups := append(shipped(t), peers.Groups...)
	return needed(t, groups, append(slices.Clone(detectors), "UsageFailureRatioHigh")...)
}

// trial is a lane in which something happens, and what is done in it.
type trial struct {
	subject  string
	scenario string
	lane     *lane
	harm     span   // what an alert shall tell, empty where there is nothing to tell
	alert    string // of ours that shall tell it, UsageActivityDropped by default
}

// outcome is what a detector made of a trial.
type outcome struct {
	subject, scenario, detector string
	harmed                      bool
	delay                       int // minutes from the beginning of the harm, -1 where nothing was said of it
	alarms                      int // that began when there was nothing to tell
	minutes                     int // in which there was nothing to tell
}

// settle is for how many minutes after a harm an alert may still begin: it is about what its window shows.
const settle = 60

// judge compares the alerts with what happened.
func judge(trials []trial, fired []firing, s span) (list []outcome) {
	starts := map[[2]string][]int{}
	for _, f := range fired {
		key := [2]string{f.alert, f.labels.Get("event_type")}
		starts[key] = append(starts[key], int(f.start.Sub(epoch).Minutes()))
	}
	for _, tr := range trials {
		for _, detector := range detectors {
			o := outcome{subject: tr.subject, scenario: tr.scenario, detector: detector, delay: -1, harmed: tr.harm.to > tr.harm.from}
			o.minutes = s.to - s.from - (tr.harm.to - tr.harm.from)
			alert := detector
			if detector == detectors[0] && tr.alert != "" {
				alert = tr.alert
			}
			all := starts[[2]string{alert, tr.lane.name}]
			slices.Sort(all)
			for _, start := range all {
				switch {
				case tr.harm.holds(start):
					if o.delay < 0 {
						o.delay = start - tr.harm.from
					}
				case o.harmed && start >= tr.harm.to && start < tr.harm.to+settle:
				default:
					o.alarms++
				}
			}
			list = append(list, o)
		}
	}
	return list
}

// scoreboard collects outcomes.
type scoreboard struct {
	list []outcome
	told int // rows that have been printed
}

// run plays the trials in a world of their own.
func (b *scoreboard) run(t testing.TB, trials []trial, lag func(int) float64, s span, step time.Duration) []firing {
	t.Helper()
	w := newWorld(t)
	var lanes []*lane
	for _, tr := range trials {
		lanes = append(lanes, tr.lane)
		sum := 0.0
		for _, n := range tr.lane.counts[:4*minutesPerWeek] {
			sum += n
		}
		mean := w.named("peer:mean:events", "event_type", tr.lane.name)
		for m := s.from; m <= s.to; m++ {
			mean.add(at(m).UnixMilli(), sum/4/minutesPerWeek*15)
		}
	}
	fired := w.play(judged(t), lanes, lag, s, step)
	b.list = append(b.list, judge(trials, fired, s)...)
	return fired
}

func noLag(int) float64 { return 0 }

// drop takes a part of the events away.
func drop(random *rand.Rand, counts []float64, s span, part float64) {
	for m := s.from; m < s.to && m < len(counts); m++ {
		counts[m] = thin(random, counts[m], 1-part)
	}
}

// sums are of the outcomes of one subject, scenario and detector.
type sums struct {
	trials, harmed, alarms int
	delays                 []int
	days                   float64
}

func (b *scoreboard) sum() map[[3]string]*sums {
	all := map[[3]string]*sums{}
	for _, o := range b.list {
		key := [3]string{o.subject, o.scenario, o.detector}
		s := all[key]
		if s == nil {
			s = &sums{}
			all[key] = s
		}
		s.alarms += o.alarms
		s.days += float64(o.minutes) / minutesPerDay
		s.trials++
		if o.harmed {
			s.harmed++
		}
		if o.delay >= 0 {
			s.delays = append(s.delays, o.delay)
		}
	}
	for _, s := range all {
		slices.Sort(s.delays)
	}
	return all
}

// within returns how many were told within so many minutes.
func (s *sums) within(minutes int) (n int) {
	for _, d := range s.delays {
		if d <= minutes {
			n++
		}
	}
	return n
}

// median is the delay after which half of all were told, -1 where fewer were.
func (s *sums) median() int {
	if i := (s.harmed - 1) / 2; s.harmed > 0 && i < len(s.delays) {
		return s.delays[i]
	}
	return -1
}
