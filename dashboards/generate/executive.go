package main

import (
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// What is compared with the past: events by the hour they were created in, which is what a backfill fills in too. The days and
// weeks are sums of whole hours.
const (
	weekOfAll  = `sum_over_time(usage:activity:observed{event_type="__all__",window="1h"}[7d:1h])`
	weekBefore = `sum_over_time(usage:activity:observed{event_type="__all__",window="1h"}[7d:1h] offset 7d)`
	weekByType = `sum by (event_type) (sum_over_time(usage:activity:observed{event_type!="__all__",window="1h"}[7d:1h]))`
	typeBefore = `sum by (event_type) (sum_over_time(usage:activity:observed{event_type!="__all__",window="1h"}[7d:1h] offset 7d))`
	dayByType  = `sum by (event_type) (sum_over_time(usage:activity:observed{event_type!="__all__",window="1h"}[1d:1h])) > 0`
	// A source has no expectation: its events are counted as they are accepted, in windows of five minutes.
	weekBySource = `sum by (source) (300 * sum_over_time(usage:source_events:rate5m[7d:5m]))`
	sourceBefore = `sum by (source) (300 * sum_over_time(usage:source_events:rate5m[7d:5m] offset 7d))`
)

// change says what a figure is against the one before: good is growth.
var change = []step{{0, worst}, {-0.25, bad}, {-0.1, faint}, {0.02, good}}

func executive() *page {
	p := &page{name: "executive", title: "usaged: executive overview", from: "now-28d", refresh: "5m",
		about: "Is it used, is it growing, does it work, and what does it cost. Figures are of all replicas; a week is the last 168 full hours."}
	p.add(5, wide(8, people()), wide(8, events()), wide(4, modeNow()), wide(4, costWeek()))
	p.row("Is it growing?")
	p.add(8, wide(12, &panel{
		title: "People", unit: "short", look: lines, interval: "1h",
		about: "How many different people used anything in a day, in 7 and in 30 days. A service account counts as one.",
		queries: []query{
			curve(`max_over_time(usage:active_users:max{window="1d"}[1d])`, "a day"),
			curve(`usage:active_users:max{window="7d"}`, "7 days"),
			curve(`usage:active_users:max{window="30d"}`, "30 days"),
		},
	}), wide(12, &panel{
		title: "Events a day", unit: "short", look: days, interval: "1d",
		about: "By what people did. Each bar is one day that is over, of the reader's time zone. Imports and events that came more than an hour " +
			"late are left out, and so are planned quiet times.",
		queries: []query{curve(dayByType, "{{event_type}}")},
	}))
	p.row("Who uses it, and for what?")
	p.add(10, wide(12, busiestTeams()), wide(12, whatPeopleDo()))
	p.row("Is it as usual?")
	p.add(8, wide(12, weekOnWeek()), wide(12, timeInModes()))
	return p
}

func people() *panel {
	return &panel{
		title: "People, last 7 days", unit: "short", look: numbers, steps: []step{{0, plain}}, noValue: "too early",
		about: "Different people who did anything in the last seven days (UTC), today included; and against the number of a week ago, which takes a week to know.",
		queries: []query{
			now(`usage:active_users:max{window="7d"}`, "people"),
			now(`usage:active_users:max{window="7d"} / (usage:active_users:max{window="7d"} offset 7d) - 1`, "on the week before"),
		},
		special: []override{grows("on the week before")},
	}
}

func events() *panel {
	return &panel{
		title: "Events, last 7 days", unit: "short", look: numbers, steps: []step{{0, plain}}, noValue: "too early",
		about: "Everything that was done in the last 168 full hours: questions asked, queries run, dashboards published, formulas made. And against the " +
			"168 hours before, which takes two weeks to know, or an import with a backfill.",
		queries: []query{now(`round(`+weekOfAll+`)`, "events"), now(weekOfAll+` / `+weekBefore+` - 1`, "on the week before")},
		special: []override{grows("on the week before")},
	}
}

func modeNow() *panel {
	return &panel{
		title: "Health", look: stacked, mappings: modes(), steps: modeSteps, noValue: "unknown",
		about:   "The System Manager's mode: normal, watch, degraded or critical, and since when. Unknown where there is no basis for a score: no data is not zero.",
		links:   []linkTo{toDashboard("Why", "system-manager")},
		queries: modeAndSince(), special: []override{ago("since")},
	}
}

// timeInModes says how much of the time was as it should be.
func timeInModes() *panel {
	p := &panel{
		title: "Time in each mode", unit: "percentunit", look: bars, min: ptr(0.0), max: ptr(1.0), decimals: ptr(1.0), steps: []step{{0, plain}},
		about: "Of the time shown for which there was a score: how much of it the System Manager's mode was normal, watch, degraded or critical. The dashboard " +
			"System Manager says when, and why.",
		links: []linkTo{toDashboard("When, and why", "system-manager")},
	}
	for mode, name := range []string{"normal", "watch", "degraded", "critical"} {
		p.queries = append(p.queries, now(fmt.Sprintf("sum(count_over_time((usage:health:mode == %d)[$__range:5m])) / sum(count_over_time(usage:health:mode[$__range:5m]))\n"+
			"or vector(0)", mode), name))
		p.special = append(p.special, override{name: name, properties: []dashboard.DynamicConfigValue{
			property("thresholds", thresholds([]step{{0, []string{good, watch, bad, worst}[mode]}})),
		}})
	}
	return p
}

func costWeek() *panel {
	return &panel{
		title: "LLM cost", unit: "currencyUSD", look: number, decimals: ptr(2.0), steps: []step{{0, plain}}, noValue: "no prices",
		about: "Of the last seven days: tokens at the prices of the table. Models without a price cost nothing here: the dashboard LLM " +
			"tokens and cost shows which, and how prices are set.",
		links:   []linkTo{toDashboard("By model", "llm")},
		queries: []query{now(`sum(sum by (model, kind) (increase(usage_llm_tokens_total[7d])) * on (model, kind) `+priceTable+`) / 1e6`, "")},
	}
}

func weekOnWeek() *panel {
	return &panel{
		title: "This week on last week", unit: "short", look: lines, interval: "1h",
		about: "Events of each hour, and of the same hour a week before. It shows at which hours something is missing.",
		queries: []query{
			curve(`usage:activity:observed{event_type="__all__",window="1h"}`, "this week"),
			curve(`usage:activity:observed{event_type="__all__",window="1h"} offset 7d`, "last week"),
		},
		special: []override{fixed("last week", faint, property("custom.lineWidth", 1), property("custom.fillOpacity", 0)), fixed("this week", plain)},
		during:  "7d",
	}
}

func busiestTeams() *panel {
	return &panel{
		title: "Busiest teams", unit: "short", look: grid, noValue: "too early",
		about: "Sources with the most events of the last seven days: the team, service or job that an event names. " +
			"Imported and late events count on the day they came in.",
		queries: []query{
			columnsOf(`topk(10, round(` + weekBySource + `))`),
			columnsOf(weekBySource + ` / (` + sourceBefore + ` > 0) - 1 and on (source) topk(10, ` + weekBySource + `)`),
		},
		changes: []dashboard.DataTransformerConfig{
			joined(), largestFirst("Value #A"),
			titled([]string{"source", "Value #A", "Value #B"}, map[string]string{
				"source": "Team (source)", "Value #A": "Events, 7 days", "Value #B": "On the week before",
			}),
		},
		special: []override{bar("Events, 7 days", "short"), column("On the week before", "percentunit", change...)},
	}
}

func whatPeopleDo() *panel {
	return &panel{
		title: "What people do", unit: "short", look: grid, noValue: "too early",
		about: "Events of the last seven days by type, against the week before, and how many of those that said how they ended failed in the last day.",
		queries: []query{
			columnsOf(`topk(10, round(` + weekByType + `))`),
			columnsOf(weekByType + ` / (` + typeBefore + ` > 0) - 1 and on (event_type) topk(10, ` + weekByType + `)`),
			columnsOf(`usage:failures:ratio1d and on (event_type) topk(10, ` + weekByType + `)`),
		},
		changes: []dashboard.DataTransformerConfig{
			joined(), largestFirst("Value #A"),
			titled([]string{"event_type", "Value #A", "Value #B", "Value #C"}, map[string]string{
				"event_type": "Type", "Value #A": "Events, 7 days", "Value #B": "On the week before", "Value #C": "Failed, last day",
			}),
		},
		special: []override{
			bar("Events, 7 days", "short"), column("On the week before", "percentunit", change...),
			column("Failed, last day", "percentunit", failed...),
		},
	}
}
