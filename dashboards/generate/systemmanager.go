package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// scores are the thresholds of the modes as shipped, and parts the same for components.
var (
	scores    = []step{{0, worst}, {50, bad}, {75, watch}, {90, good}}
	parts     = []step{{0, worst}, {0.5, bad}, {0.75, watch}, {0.9, good}}
	modeSteps = []step{{0, good}, {1, watch}, {2, bad}, {3, worst}}
)

func systemManager() *page {
	p := &page{name: "system-manager", title: "usaged: System Manager", from: "now-24h", refresh: "1m", everyMode: true,
		about: "The score that the System Manager acts on: what it is, why, and how far usage is from what past weeks led to expect."}
	p.variables = []cog.Builder[dashboard.VariableModel]{
		choiceVariable("event_type", "Event type", "usage:health:scope", "__all__", "What is compared with its past; __all__ is all types together."),
		listVariable("window", "Window", []string{"15m", "1h", "6h", "1d"}, "1h", "Over how long events are counted: 15 minutes for busy types, a day for slow ones."),
	}
	p.add(6, wide(4, scoreNow()), wide(4, modeStat()), wide(8, componentsNow()), wide(4, expectedPart()), wide(4, alertsNow()))
	p.add(9, wide(15, band()), wide(9, typeTable()))
	p.row("History")
	p.add(8, wide(12, scoreCurve()), wide(12, &panel{
		title: "Components", unit: "percentunit", look: lines, min: ptr(0.0), max: ptr(1.0),
		about: "What the score is made of, each from 0 to 1: activity against the band's lower edge, failures, how far counting lags, and policy hits. " +
			"A component that cannot be known is absent and drops out of the score.",
		queries: []query{curve(`usage:health:component{event_type="$event_type"}`, "{{component}}")},
	}))
	p.add(7, wide(24, &panel{
		title: "Modes by type", look: states, mappings: modes(), interval: "2m",
		about:   "Each type has a score and a mode of its own; __all__ is what the System Manager acts on. A gap is a time without a basis.",
		queries: []query{curve(`bottomk(8, usage:health:type_mode{event_type!="__all__"}) or usage:health:type_mode{event_type="__all__"}`, "{{event_type}}")},
	}))
	p.folded("Past weeks, quiet times, settings",
		line{8, []cell{wide(12, pastWeeks()), wide(6, unknown()), wide(6, quietTypes())}},
		line{8, []cell{wide(8, weights()), wide(16, limits())}})
	return p
}

func scoreNow() *panel {
	return &panel{
		title: "Score", unit: "none", look: dial, steps: scores, min: ptr(0.0), max: ptr(100.0), decimals: ptr(0.0), noValue: "unknown",
		about: "The weighted geometric mean of the components, 0 to 100. Normal from 90, watch from 75, degraded from 50, critical below. " +
			"Unknown where there is no basis.",
		queries: []query{now(`usage:health:score`, "")},
	}
}

func modeStat() *panel {
	return &panel{
		title: "Mode, since", look: stacked, mappings: modes(), steps: modeSteps, noValue: "unknown",
		about: "It gets worse when the score was low for five minutes, and better when it was well above the threshold for fifteen. " +
			"Since when it is what it is, is known for 31 days.",
		queries: modeAndSince(), special: []override{ago("since")},
	}
}

func modeAndSince() []query {
	return []query{now(`usage:health:mode`, "mode"), now(`1000 * max(usage:health:since{event_type="__all__"})`, "since")}
}

func componentsNow() *panel {
	return &panel{
		title: "Why: components now", unit: "percentunit", look: bars, noValue: "not known",
		steps: append([]step{{0, gray}}, parts...), min: ptr(0.0), max: ptr(1.0), decimals: ptr(0.0),
		about: "The lowest is the reason for the score. 100% is good; one that is dead pulls the score down alone. One that is not known drops " +
			"out: of activity, Types not judged at the end of the page says why.",
		queries: []query{now(`sort(usage:health:component{event_type="__all__"} or on (component) usage:health:weight * NaN)`, "{{component}}")},
	}
}

func expectedPart() *panel {
	return &panel{
		title: "Of expected", unit: "percentunit", look: number, decimals: ptr(0.0), noValue: "not known", steps: []step{{0, plain}},
		about: "Events in the chosen window as a part of what the same time of past weeks leads to expect. Below 70% and below the band it is a drop; " +
			"below 70% within the band it is chance.",
		queries: []query{curve(`usage:activity:observed{event_type="$event_type",window="$window"}
/ usage:activity:expected{event_type="$event_type",window="$window"}`, "")},
	}
}

func alertsNow() *panel {
	return &panel{
		title: "Alerts firing", unit: "short", look: named, steps: []step{{0, good}, {1, worst}},
		about: "Alerts about usage that fire now: drops, failures, no events at all. The runbooks say what to do.",
		links: []linkTo{{"Runbooks", "/d/usaged-runbooks"}},
		queries: []query{now(`count by (alertname) (ALERTS{alertname=~"Usage[^d].*",alertstate="firing"})
or on () label_replace(vector(0), "alertname", "none", "", "")`, "{{alertname}}")},
	}
}

// band draws what is usual as an area, and what is behind it as a line.
func band() *panel {
	const labels = `{event_type="$event_type",window="$window"}`
	hidden := []dashboard.DynamicConfigValue{property("custom.lineWidth", 0), property("custom.hideFrom", map[string]any{"legend": true, "tooltip": false, "viz": false})}
	return &panel{
		title: "Actual and expected: $event_type in $window", unit: "short", look: lines, interval: "1m", noValue: "too early: this takes an hour, and what is usual two weeks",
		about: "Events in the window before each moment, beside the median of the same time in the past four weeks and the band in which it usually lies. " +
			"Below the band and below 70% of what was expected, it is a drop. Events that came late are left out. A gap is a time of which nothing is " +
			"known: quiet, or counting was over a minute behind; later weeks leave it out of what they expect.",
		queries: []query{
			curve(`usage:activity:lower`+labels, "lower edge"),
			curve(`usage:activity:upper`+labels, "usual"),
			curve(`usage:activity:expected`+labels, "expected"),
			curve(`usage:activity:observed`+labels, "actual"),
		},
		special: []override{
			fixed("lower edge", gray, append(hidden, property("custom.fillOpacity", 0))...),
			fixed("usual", gray, property("custom.lineWidth", 0), property("custom.fillBelowTo", "lower edge"), property("custom.fillOpacity", 18)),
			fixed("expected", bad, property("custom.lineWidth", 2), property("custom.fillOpacity", 0),
				dashed()),
			fixed("actual", plain, property("custom.lineWidth", 2), property("custom.fillOpacity", 0)),
		},
	}
}

func typeTable() *panel {
	return &panel{
		title: "Types, the worst first", unit: "none", look: grid, noValue: "–",
		about: "Every type with a score, with what was observed in the last hour and what was expected. Click a type to see its band.",
		queries: []query{
			columnsOf(`bottomk(20, sum by (event_type) (usage:health:type_score{event_type!="__all__"}))`),
			columnsOf(`sum by (event_type) (usage:activity:observed{event_type!="__all__",window="1h"})`),
			columnsOf(`sum by (event_type) (usage:activity:expected{event_type!="__all__",window="1h"})`),
		},
		changes: []dashboard.DataTransformerConfig{
			joined(),
			titled([]string{"event_type", "Value #A", "Value #B", "Value #C"}, map[string]string{
				"event_type": "Type", "Value #A": "Score", "Value #B": "Actual", "Value #C": "Expected",
			}),
			smallestFirst("Score"),
		},
		special: []override{
			{name: "Type", properties: []dashboard.DynamicConfigValue{property("links", []map[string]string{{
				"title": "Show its band",
				"url":   "/d/usaged-system-manager?var-event_type=${__value.raw:percentencode}&${datasource:queryparam}&${__url_time_range}",
			}})}},
			column("Score", "none", scores...), column("Actual", "short"), column("Expected", "short"),
			{name: "/Score|Actual|Expected/", properties: []dashboard.DynamicConfigValue{property("decimals", 0), property("custom.width", 76)}},
		},
	}
}

func scoreCurve() *panel {
	return &panel{
		title: "Score", unit: "none", look: limited, steps: scores, min: ptr(0.0), max: ptr(100.0),
		about:   "The score of the chosen type over time, with the thresholds of the modes. A gap is unknown, not zero.",
		queries: []query{curve(`usage:health:type_score{event_type="$event_type"}`, "{{event_type}}")},
	}
}

func pastWeeks() *panel {
	return &panel{
		title: "The same time of past weeks", unit: "short", look: lines,
		about: "What each of the past four weeks had at this time: expected is their median, and how far they lie apart widens the band.",
		queries: []query{
			curve(`usage:activity:past{event_type="$event_type",window="$window"}`, "week −{{week}}"),
			curve(`usage:activity:observed{event_type="$event_type",window="$window"}`, "now"),
		},
		special: []override{fixed("now", worst, property("custom.lineWidth", 3))},
	}
}

func unknown() *panel {
	return &panel{
		title: "Types not judged", unit: "short", look: bars, steps: []step{{0, plain}}, min: ptr(0.0),
		about:   "Types of whose activity nothing is said, by reason: lag, counting is behind; quiet, a planned time; start, too short a run; weeks, too few of them known; idle, nothing was ever expected.",
		queries: []query{now(`sort_desc(count by (reason) (usage:activity:unknown)) or on () label_replace(vector(0), "reason", "none", "", "")`, "{{reason}}")},
	}
}

func quietTypes() *panel {
	return &panel{
		title: "Quiet types", unit: "short", look: light, steps: []step{{0, good}, {1, plain}},
		about:   "Types in a planned quiet time, in which nothing is said about activity, and no drop is reported.",
		queries: []query{now(`count(usage:activity:quiet) or vector(0)`, "")},
	}
}

func weights() *panel {
	return &panel{
		title: "Weights", unit: "percentunit", look: bars, steps: []step{{0, plain}}, min: ptr(0.0), decimals: ptr(0.0),
		about:   "What each component counts for in the score. Other weights go into --rules.file, all four of them.",
		queries: []query{now(`sort_desc(usage:health:weight)`, "{{component}}")},
	}
}

func limits() *panel {
	return &panel{
		title: "What is good, what is bad, and what was observed", unit: "none", look: grid, noValue: "–",
		about: "Up to good a component is 1, from bad on it is 0: a ratio of failed events, seconds of lag, policy hits per event. Set in --rules.file.",
		queries: []query{
			columnsOf(`sum by (component) (usage:health:good)`), columnsOf(`sum by (component) (usage:health:bad)`),
			columnsOf(`sum by (component) (usage:health:observed{event_type="__all__"})`),
		},
		changes: []dashboard.DataTransformerConfig{
			joined(),
			titled([]string{"component", "Value #A", "Value #B", "Value #C"}, map[string]string{
				"component": "Component", "Value #A": "Good up to", "Value #B": "Bad from", "Value #C": "Observed now",
			}),
		},
	}
}
