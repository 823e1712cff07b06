package rules_test

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
)

// stretch is how many minutes a life evaluates at once. No rule reads what it or a later rule recorded less than this before, except
// those that are evaluated minute by minute: see stepwise.
const stretch = 6 * 60

// life evaluates rules as a daemon does: every group at its interval, in order, from the first minute on, and each rule finds
// what rules recorded before. All of the past that a rule sees was recorded so.
type life struct {
	w      *world
	groups []rulefmt.RuleGroup
	now    int // the last minute that was evaluated

	alive  map[[2]int]map[*column]bool // what a rule recorded last, by the numbers of its group and itself
	values map[[2]int]map[string]*promql.Series
}

func (w *world) live(groups []rulefmt.RuleGroup) *life {
	return &life{
		w: w, groups: groups, now: -1,
		alive: map[[2]int]map[*column]bool{}, values: map[[2]int]map[string]*promql.Series{},
	}
}

// until evaluates the minutes up to and with end.
func (l *life) until(end int) {
	l.w.t.Helper()
	for l.now < end {
		next := min(end, l.now+stretch)
		for g, group := range l.groups {
			every := max(1, int(time.Duration(group.Interval)/time.Minute))
			from, to := (l.now/every+1)*every, next/every*every
			if l.now < 0 {
				from = 0
			}
			if from > to {
				continue
			}
			l.evaluate(g, from, to, every)
		}
		l.now = next
	}
}

// evaluate evaluates a group from a minute to another.
func (l *life) evaluate(g, from, to, every int) {
	list := l.groups[g].Rules
	first, behind := stepwise(l.w.t, list)
	for r := 0; r < len(list); r++ {
		if r < first || r >= behind {
			l.rule([2]int{g, r}, list[r], from, to, every)
			continue
		}
		for m := from; m <= to; m += every {
			for i := first; i < behind; i++ {
				l.rule([2]int{g, i}, list[i], m, m, every)
			}
		}
		r = behind - 1
	}
}

// stepwise returns the rules of a group that must be evaluated one minute after the other, from those that read what they recorded
// a minute ago.
func stepwise(t testing.TB, list []rulefmt.Rule) (first, behind int) {
	for i, rule := range list {
		for _, s := range selectors(t, rule.Expr) {
			if rule.Record != "" && s.Name == rule.Record && s.OriginalOffset > 0 && s.OriginalOffset < stretch*time.Minute {
				if behind == 0 {
					first = i
				}
				behind = i + 1
			}
		}
	}
	return first, behind
}

func (l *life) rule(key [2]int, rule rulefmt.Rule, from, to, every int) {
	matrix := l.w.query(rule.Expr, at(from), at(to), time.Duration(every)*time.Minute)
	if rule.Alert != "" {
		l.note(key, matrix)
		return
	}
	step, end := int64(every)*time.Minute.Milliseconds(), at(to).UnixMilli()
	before, now := l.alive[key], map[*column]bool{}
	for c, points := range l.w.recorded(rule, matrix) {
		if before[c] && points[0].T > at(from).UnixMilli() {
			c.end(at(from).UnixMilli())
		}
		delete(before, c)
		c.record(points, step, end)
		if points[len(points)-1].T == end {
			now[c] = true
		}
	}
	for c := range before {
		c.end(at(from).UnixMilli())
	}
	l.alive[key] = now
}

// recorded returns what a rule records by series. What an operator or takes from one side has another name than what it takes from the
// other, and is of one series.
func (w *world) recorded(rule rulefmt.Rule, matrix promql.Matrix) map[*column][]promql.FPoint {
	list := map[*column][]promql.FPoint{}
	for _, s := range matrix {
		b := labels.NewBuilder(s.Metric).Set("__name__", rule.Record)
		for name, value := range rule.Labels {
			b.Set(name, value)
		}
		c := w.column(b.Labels())
		list[c] = append(list[c], s.Floats...)
	}
	for _, points := range list {
		slices.SortFunc(points, func(a, b promql.FPoint) int { return cmp.Compare(a.T, b.T) })
	}
	return list
}

// note keeps the values of an alert's expression.
func (l *life) note(key [2]int, matrix promql.Matrix) {
	if l.values[key] == nil {
		l.values[key] = map[string]*promql.Series{}
	}
	for _, s := range matrix {
		name := s.Metric.String()
		if l.values[key][name] == nil {
			l.values[key][name] = &promql.Series{Metric: s.Metric}
		}
		kept := l.values[key][name]
		kept.Floats = append(kept.Floats, s.Floats...)
	}
}

// fired returns when the alerts fired.
func (l *life) fired() (list []firing) {
	for g, group := range l.groups {
		for r, rule := range group.Rules {
			for _, s := range l.values[[2]int{g, r}] {
				list = append(list, firings(rule, *s, time.Minute)...)
			}
		}
	}
	slices.SortFunc(list, func(a, b firing) int { return a.start.Compare(b.start) })
	return list
}

// memory is a life at a time, to go on from more than once.
type memory struct {
	now    int
	points map[*column]int
	values map[*promql.Series]int
	alive  map[[2]int]map[*column]bool
}

func (l *life) remember() memory {
	m := memory{now: l.now, points: map[*column]int{}, values: map[*promql.Series]int{}, alive: map[[2]int]map[*column]bool{}}
	for _, c := range l.w.index {
		m.points[c] = len(c.points)
	}
	for _, list := range l.values {
		for _, s := range list {
			m.values[s] = len(s.Floats)
		}
	}
	for key, alive := range l.alive {
		m.alive[key] = map[*column]bool{}
		for c := range alive {
			m.alive[key][c] = true
		}
	}
	return m
}

// back forgets what came after a time that is remembered.
func (l *life) back(m memory) {
	l.now = m.now
	for _, c := range l.w.index {
		c.points = c.points[:m.points[c]]
	}
	for _, list := range l.values {
		for _, s := range list {
			s.Floats = s.Floats[:m.values[s]]
		}
	}
	l.alive = map[[2]int]map[*column]bool{}
	for key, alive := range m.alive {
		l.alive[key] = map[*column]bool{}
		for c := range alive {
			l.alive[key][c] = true
		}
	}
}
