package rules_test

import (
	"math/rand/v2"
	"slices"
	"time"
)

// player lives through the traffic of one type, and tries what would have been told had it changed.
type player struct {
	w      *world
	life   *life
	counts []float64
}

func (w *world) player(counts []float64) *player {
	w.scrape(&lane{name: "a", counts: append(slices.Clone(counts), 0)}, span{0, len(counts)})
	lag := w.named("usaged_apply_lag_seconds", "instance", "1")
	for m := range counts {
		lag.add(at(m).UnixMilli(), 0)
	}
	return &player{w: w, life: w.live(judged(w.t)), counts: counts}
}

// busy returns a minute in a stretch at which at least half of the mean is expected, where there is one.
func (p *player) busy(random *rand.Rand, h *record, from, length int) int {
	mean := h.passed[len(h.passed)-1] / float64(len(h.passed)) * 15
	start := from
	for range 200 {
		if start = from + random.IntN(length); h.expected(start) >= 0.5*mean {
			break
		}
	}
	return max(start, p.life.now+1)
}

// told says whether an alert of a drop, or of a rise, begins when from a minute on so many events are counted.
func (p *player) told(start int, counts []float64, rise bool) bool {
	p.w.t.Helper()
	before := p.life.remember()
	defer p.life.back(before)
	c := p.w.named("usage_events_total", "event_type", "a", "instance", "1")
	kept := slices.Clone(c.points)
	defer func() { c.points = kept }()
	c.points = c.points[:start+1]
	total := c.points[start].value
	for i, n := range counts {
		total += n
		c.add(at(start+i+1).UnixMilli(), total)
	}
	p.life.until(start + len(counts))
	names := alerts[:3]
	if rise {
		names = alerts[3:]
	}
	return slices.ContainsFunc(about(p.life.fired(), names...), func(f firing) bool { return f.end.After(at(start)) })
}

// about returns those of some alerts.
func about(fired []firing, names ...string) []firing {
	return slices.DeleteFunc(slices.Clone(fired), func(f firing) bool { return !slices.Contains(names, f.alert) })
}

func minuteOf(t time.Time) int { return int(t.Sub(epoch) / time.Minute) }
