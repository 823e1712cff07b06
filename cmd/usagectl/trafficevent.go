package main

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// writer invents the metadata of events.
type writer struct{ r *rand.Rand }

// language is a model with what its requests usually take.
type language struct {
	name               string
	share              float64 // of the requests
	prompt, completion float64 // tokens, median
}

var languages = []language{
	{"small-1", 0.58, 700, 90},
	{"medium-1", 0.27, 1400, 180},
	{"large-1", 0.12, 3200, 420},
	{"reasoning-1", 0.03, 2600, 2400},
}

func (w *writer) generation() map[string]string {
	m := map[string]string{"question": w.question()}
	var policies []string
	for _, p := range policyFilters {
		if w.r.Float64() < p.share {
			policies = append(policies, p.name)
		}
	}
	if len(policies) > 0 {
		m["policy_filters"] = strings.Join(policies, ",")
	}
	w.spend(m)
	return m
}

func (w *writer) execution() map[string]string {
	return map[string]string{"question": w.question(), "rows": w.lognormal(120, 1.9)}
}

func (w *writer) publication() map[string]string {
	return map[string]string{
		"dashboard_id": areas.word(w.r) + "-" + views.word(w.r),
		"adapter":      adapters.word(w.r),
	}
}

func (w *writer) formula() map[string]string {
	m := map[string]string{
		"prompt":     formulas.word(w.r) + " " + areas.word(w.r),
		"project_id": "p-" + strconv.Itoa(100+projects.draw(w.r)),
	}
	w.spend(m)
	return m
}

// spend adds a model and its tokens.
func (w *writer) spend(m map[string]string) {
	x := w.r.Float64()
	model := languages[len(languages)-1]
	for _, l := range languages {
		if x -= l.share; x < 0 {
			model = l
			break
		}
	}
	m["model"] = model.name
	m["prompt_tokens"] = w.lognormal(model.prompt, 0.6)
	m["completion_tokens"] = w.lognormal(model.completion, 0.7)
}

// lognormal draws a number around a median: most are near it, few are very large.
func (w *writer) lognormal(median, sigma float64) string {
	n := median * math.Exp(sigma*w.r.NormFloat64())
	return strconv.FormatInt(int64(min(n, 1e9)), 10)
}

// question fills a template.
func (w *writer) question() string {
	return strings.NewReplacer(
		"{metric}", metrics.word(w.r),
		"{by}", groups.word(w.r),
		"{when}", periods.word(w.r),
	).Replace(questions.word(w.r))
}

var policyFilters = []struct {
	name  string
	share float64
}{{"row_level_security", 0.006}, {"pii_masking", 0.004}, {"region_scope", 0.003}, {"finance_embargo", 0.001}}

var (
	questions = ranked([]string{
		"What was {metric} by {by} {when}?", "Show {metric} per {by} {when}", "Which {by} had the highest {metric} {when}?",
		"How did {metric} develop {when}?", "Compare {metric} across every {by} {when}", "Top 10 {by} by {metric} {when}",
		"Why did {metric} fall {when}?", "Forecast {metric} for each {by} from {when}",
	})
	metrics = ranked([]string{
		"revenue", "gross margin", "order count", "active customers", "churn", "stock on hand", "delivery time", "refunds",
		"average basket", "support tickets", "headcount", "advertising spend",
	})
	groups   = ranked([]string{"region", "product line", "customer", "month", "store", "channel", "sales rep", "warehouse", "campaign", "supplier"})
	periods  = ranked([]string{"last month", "this quarter", "last week", "year to date", "yesterday", "last year", "since January", "in the last 90 days"})
	areas    = ranked([]string{"sales", "finance", "inventory", "marketing", "support", "logistics", "pricing", "people", "risk", "executive"})
	views    = ranked([]string{"overview", "weekly", "by-region", "forecast", "daily", "detail", "targets", "audit"})
	adapters = ranked([]string{"tableau", "powerbi", "looker", "superset", "metabase"})
	projects = ranked(make([]string, 40))
	formulas = ranked([]string{
		"sum by month of", "look up the price of", "count what is overdue in", "growth in percent of", "flag duplicates in",
		"average without outliers of", "split names in", "days between dates of",
	})
)

// scenario is what goes wrong, from a time on.
type scenario struct {
	name   string
	from   time.Time
	kind   string  // the event type that is concerned; empty: every type
	factor float64 // share of events that are lost, or that fail
}

// The scenarios.
const (
	steady         = "steady"   // nothing goes wrong: about 1% fail
	scenarioDrop   = "drop"     // a part of the traffic stays away
	scenarioFail   = "failures" // a part of the traffic fails
	scenarioOutage = "outage"   // there is no traffic
)

// usualFailures is the share of events that fail when nothing is wrong.
const usualFailures = 0.005

// effect is what a scenario does to an event.
type effect struct {
	lost    float64 // probability that it is not sent
	failing float64 // probability that its outcome is failure
}

func (s scenario) at(kind string, when time.Time) effect {
	usual := effect{failing: usualFailures}
	if when.Before(s.from) || s.kind != "" && s.kind != kind {
		return usual
	}
	switch s.name {
	case scenarioDrop:
		usual.lost = s.factor
	case scenarioFail:
		usual.failing = s.factor
	case scenarioOutage:
		usual.lost = 1
	}
	return usual
}
