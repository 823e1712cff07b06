package main

import "github.com/grafana/grafana-foundation-sdk/go/dashboard"

// Of the two types that turn a question into an answer: within the time that is shown.
const (
	asked  = `sum(increase(usage_events_total{event_type="sql_generation"}[$__range]))`
	rows   = `sum(increase(usage_sql_rows_total[$__range]))`
	hits   = `sum by (policy) (increase(usage_policy_hits_total[$__range]))`
	before = ` offset $__range`
)

// failedOf is the part of the events of a type that failed, of those that said how they ended.
func failedOf(eventType string) string {
	return `sum(increase(usage_event_outcomes_total{event_type="` + eventType + `",outcome="failure"}[$__range]))
/ (sum(increase(usage_event_outcomes_total{event_type="` + eventType + `"}[$__range])) > 0)`
}

// grown is how much more there was of a type than in the time of the same length before.
func grown(eventType string) string {
	one := `usage_events_total{event_type="` + eventType + `"}[$__range]`
	return `sum(increase(` + one + `)) / (sum(increase(` + one + before + `)) > 0) - 1`
}

func nl2sql() *page {
	p := &page{name: "nl2sql", title: "usaged: NL to SQL and policy", from: "now-7d", refresh: "5m",
		about: "How many questions become SQL, whether it works, and which policies had something to say. Figures are of the time shown."}
	p.add(5,
		wide(8, made("Questions turned into SQL", "questions", "sql_generation", "Which questions: usagectl queries.")),
		wide(8, made("Queries run", "queries", "sql_execution", "Jobs run queries without asking.")),
		wide(4, policyShare()),
		wide(4, total("Rows returned", "Rows that executed queries returned in the time shown.", rows)))
	p.row("From question to answer")
	p.add(8, wide(12, &panel{
		title: "Questions and queries an hour", unit: "short", look: lines, interval: "5m",
		about: "Questions that became SQL, and queries that ran. Jobs run queries without asking, so that there are more of these.",
		queries: []query{
			curve(`sum(usage:events:increase1h{event_type="sql_generation"})`, "questions"),
			curve(`sum(usage:events:increase1h{event_type="sql_execution"})`, "queries"),
		},
	}), wide(12, &panel{
		title: "Failed, of the last day", unit: "percentunit", look: limited, steps: failed, interval: "5m", min: ptr(0.0),
		about:   "The part of the events of 24 hours that say how they ended that failed. Up to 1% is good, from 10% on the score has a dead component.",
		queries: []query{curve(`usage:failures:ratio1d{event_type=~"sql_generation|sql_execution"}`, "{{event_type}}")},
		links:   []linkTo{{"Runbook", "/d/usaged-runbooks"}},
	}))
	p.add(7, wide(12, &panel{
		title: "Rows for each query", unit: "short", look: lines, interval: "5m",
		about:   "Rows returned in 24 hours, divided by the queries that ran: a jump is a question that lost its filter.",
		queries: []query{curve(`usage:sql_rows:increase1d / (sum(usage:events:increase1d{event_type="sql_execution"}) > 0)`, "rows a query")},
	}), wide(12, &panel{
		title: "Queries for each question", unit: "none", look: lines, interval: "5m", decimals: ptr(1.0),
		about: "Queries that ran in 24 hours, divided by questions asked. Near 0, answers are not used.",
		queries: []query{curve(`sum(usage:events:increase1d{event_type="sql_execution"})
/ (sum(usage:events:increase1d{event_type="sql_generation"}) > 0)`, "queries a question")},
	}))
	p.row("Policies")
	p.add(8, wide(14, &panel{
		title: "Policy hits a day", unit: "short", look: days, interval: "1d",
		about: "Questions on which a policy had something to say. Each bar is one day that is over, of the reader's time zone. One question may " +
			"have several.",
		queries: []query{curve(`usage:policy_hits:increase1d > 0`, "{{policy}}")},
	}), wide(10, policyTable()))
	return p
}

// total is how much there was in the time shown.
func total(title, about, expr string) *panel {
	return &panel{title: title, about: about, unit: "short", look: number, steps: []step{{0, plain}}, queries: []query{now(`round(`+expr+`)`, "")}}
}

// made is what there was of a type in the time shown, against the time before, and the part that failed.
func made(title, what, eventType, more string) *panel {
	return &panel{
		title: title, unit: "short", look: numbers, steps: []step{{0, plain}}, noValue: "too early",
		about: "Events of the type " + eventType + " in the time shown, against the time of the same length before, and the part that failed of those " +
			"that said how they ended. " + more,
		queries: []query{
			now(`round(sum(increase(usage_events_total{event_type="`+eventType+`"}[$__range])))`, what),
			now(grown(eventType), "on the time before"), now(failedOf(eventType), "failed"),
		},
		special: []override{grows("on the time before"), fails("failed")},
	}
}

func policyShare() *panel {
	return &panel{
		title: "Policy hits", unit: "percentunit", look: number, steps: []step{{0, plain}}, decimals: ptr(1.0),
		about:   "Policies that had something to say, per question: more than 100% where most questions meet several.",
		queries: []query{now(`(sum(`+hits+`) or vector(0)) / (`+asked+` > 0)`, "")},
	}
}

func policyTable() *panel {
	return &panel{
		title: "Policies", unit: "short", look: grid, noValue: "too early",
		about: "How often each policy applied in the time shown, to what part of all questions, and against the time of the same length before.",
		queries: []query{
			columnsOf(`round(` + hits + `)`),
			columnsOf(hits + ` / on () group_left () (` + asked + ` > 0)`),
			columnsOf(hits + ` / (sum by (policy) (increase(usage_policy_hits_total[$__range]` + before + `)) > 0) - 1`),
		},
		changes: []dashboard.DataTransformerConfig{
			joined(), largestFirst("Value #A"),
			titled([]string{"policy", "Value #A", "Value #B", "Value #C"}, map[string]string{
				"policy": "Policy", "Value #A": "Hits", "Value #B": "Of questions", "Value #C": "On the time before",
			}),
		},
		special: []override{bar("Hits", "short"), column("Of questions", "percentunit"), column("On the time before", "percentunit")},
	}
}
