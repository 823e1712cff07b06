package main

import "github.com/grafana/grafana-foundation-sdk/go/dashboard"

func publishing() *page {
	p := &page{name: "publishing", title: "usaged: dashboards and spreadsheets", from: "now-7d", refresh: "5m",
		about: "What people make of the data: dashboards that they publish and spreadsheet formulas that they have written."}
	p.add(5,
		wide(12, made("Dashboards published", "dashboards", "dashboard_publish", "Which dashboards: usagectl dashboards.")),
		wide(12, made("Formulas made", "formulas", "spreadsheet_formula", "")))
	p.row("Dashboards")
	p.add(8, wide(12, perDay("Publications a day", "dashboard_publish")), wide(12, usual("Publications, and what is usual", "dashboard_publish")))
	p.row("Spreadsheets")
	p.add(8, wide(12, perDay("Formulas a day", "spreadsheet_formula")), wide(12, usual("Formulas, and what is usual", "spreadsheet_formula")))
	p.row("Quality")
	p.add(7, wide(10, &panel{
		title: "Failed, of the last day", unit: "percentunit", look: limited, steps: failed, interval: "5m", min: ptr(0.0),
		about:   "The part of the events of 24 hours that say how they ended that failed.",
		queries: []query{curve(`usage:failures:ratio1d{event_type=~"dashboard_publish|spreadsheet_formula"}`, "{{event_type}}")},
		links:   []linkTo{{"Runbook", "/d/usaged-runbooks"}},
	}), wide(14, lastDay()))
	return p
}

func perDay(title, eventType string) *panel {
	return &panel{
		title: title, unit: "short", look: days, interval: "1d",
		about:   "Each bar is one day that is over. Imports and events that came more than an hour late are left out, and so are planned quiet times.",
		queries: []query{curve(`sum(sum_over_time(usage:activity:observed{event_type="`+eventType+`",window="1h"}[1d:1h]))`, eventType)},
		special: []override{fixed(eventType, plain)},
	}
}

// usual shows a type by days, since there are hours without one.
func usual(title, eventType string) *panel {
	labels := `{event_type="` + eventType + `",window="1d"}`
	p := band()
	p.title, p.interval = title, "5m"
	p.about = "Events of the last 24 hours at each moment, beside what the same time of past weeks leads to expect and the band in which it usually lies."
	p.queries = []query{
		curve(`usage:activity:lower`+labels, "lower edge"), curve(`usage:activity:upper`+labels, "usual"),
		curve(`usage:activity:expected`+labels, "expected"), curve(`usage:activity:observed`+labels, "actual"),
	}
	p.links = []linkTo{toDashboard("By type", "system-manager")}
	return p
}

func lastDay() *panel {
	const types = `{event_type=~"dashboard_publish|spreadsheet_formula"}`
	return &panel{
		title: "The last day", unit: "short", look: grid, noValue: "–",
		about: "Events of the last 24 hours, how many of those that said so failed, how many came more than an hour late, and how long ago the last one was.",
		queries: []query{
			columnsOf(`sum by (event_type) (usage:events:increase1d` + types + `)`),
			columnsOf(`sum by (event_type) (usage:failures:increase1d` + types + `)`),
			columnsOf(`sum by (event_type) (usage:late_events:increase1d` + types + `)`),
			columnsOf(`sum by (event_type) (usage:last_event:age_seconds` + types + `)`),
		},
		changes: []dashboard.DataTransformerConfig{
			joined(),
			titled([]string{"event_type", "Value #A", "Value #B", "Value #C", "Value #D"}, map[string]string{
				"event_type": "Type", "Value #A": "Events", "Value #B": "Failed", "Value #C": "Late", "Value #D": "Last one ago",
			}),
		},
		special: []override{
			{name: "/Events|Failed|Late/", properties: []dashboard.DynamicConfigValue{property("decimals", 0)}},
			column("Last one ago", "s"),
		},
	}
}
