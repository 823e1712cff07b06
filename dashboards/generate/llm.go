package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// Prices are of the operator's table; tokens that have none there cost what the reader types in, where that is more than 0, and
// otherwise are left out.
const (
	priceTable = `max by (model, kind) (usage_llm_price_usd_per_million)`
	anyPrice   = `(` + priceTable + ` or on (model, kind) 0 * usage:llm_tokens:rate5m + on () group_left () (vector($default_price) > 0))`
	spent      = `sum by (model, kind) (increase(usage_llm_tokens_total[$__range]))`
	cost       = `sum by (model) (` + spent + ` * on (model, kind) ` + anyPrice + `) / 1e6`
	unpriced   = `sum(` + spent + ` unless on (model, kind) ` + priceTable + `)`
)

func llm() *page {
	p := &page{name: "llm", title: "usaged: LLM tokens and cost by model", from: "now-7d", refresh: "5m",
		about: "What language models cost, which of them, and where it goes. Prices are yours: a table that you edit, shown at the end."}
	p.variables = []cog.Builder[dashboard.VariableModel]{
		textVariable("default_price", "Price if none", "0", "USD per million tokens without a price, for a quick look; 0 leaves them out. Lasting prices are in the table of --prices.file."),
	}
	p.add(5,
		wide(8, &panel{
			title: "Cost", unit: "currencyUSD", look: numbers, decimals: ptr(2.0), steps: []step{{0, plain}}, noValue: "no prices",
			about: "Tokens times price in the time shown, and against the time of the same length before. Red is growth.",
			queries: []query{
				now(`sum(`+cost+`)`, "in the time shown"),
				now(`sum(`+spent+` * on (model, kind) `+anyPrice+`)
/ (sum(sum by (model, kind) (increase(usage_llm_tokens_total[$__range]`+before+`)) * on (model, kind) `+anyPrice+`) > 0) - 1`, "on the time before"),
			},
			special: []override{{name: "on the time before", properties: []dashboard.DynamicConfigValue{
				property("unit", "percentunit"), property("decimals", 1),
				property("thresholds", thresholds([]step{{0, good}, {0.05, faint}, {0.25, bad}, {0.5, worst}})),
			}}},
		}),
		wide(4, money("Per month", "At the pace of the last seven days, for 30 days.",
			`sum(sum by (model, kind) (increase(usage_llm_tokens_total[7d])) * on (model, kind) `+anyPrice+`) / 1e6 / 7 * 30`)),
		wide(4, total("Tokens", "Prompt, completion and other tokens in the time shown.", `sum(increase(usage_llm_tokens_total[$__range]))`)),
		wide(4, money("Per 1,000 uses", "Cost of the time shown, for each thousand of the events that use a model: SQL generations and formulas.",
			`1000 * sum(`+cost+`) / (sum(increase(usage_events_total{event_type=~"sql_generation|spreadsheet_formula"}[$__range])) > 0)`)),
		wide(4, &panel{
			title: "No price", unit: "percentunit", look: light, steps: []step{{0, good}, {0.01, watch}, {0.2, worst}}, decimals: ptr(0.0),
			about:   "The part of the tokens whose model and kind have no price in the table. The cost is too low by what they cost.",
			queries: []query{now(`(`+unpriced+` or vector(0)) / (sum(increase(usage_llm_tokens_total[$__range])) > 0)`, "")},
		}))
	p.row("Cost")
	p.add(8, wide(8, &panel{
		title: "Cost by model", unit: "currencyUSD", look: bars, steps: []step{{0, plain}}, min: ptr(0.0), decimals: ptr(2.0),
		about: "Of the time shown, the ten dearest. A model without a price is not among them.", noValue: "no prices",
		queries: []query{now(`sort_desc(topk(10, `+cost+`))`, "{{model}}")},
	}), wide(16, &panel{
		title: "Cost a day by model", unit: "currencyUSD", look: days, interval: "1d", decimals: ptr(2.0),
		about: "Each bar is one day that is over, of the reader's time zone, at the prices of that day.", noValue: "no prices, or no day with them",
		queries: []query{curve(`sum by (model) (usage:llm_tokens:increase1d * on (model, kind) `+anyPrice+`) / 1e6 > 0`, "{{model}}")},
	}))
	p.row("Tokens")
	p.add(8, wide(12, &panel{
		title: "Tokens an hour by model", unit: "short", look: area, interval: "5m",
		about:   "All kinds of tokens together.",
		queries: []query{curve(`sum by (model) (usage:llm_tokens:increase1h)`, "{{model}}")},
	}), wide(12, &panel{
		title: "Tokens an hour by kind", unit: "short", look: area, interval: "5m",
		about:   "Prompt is what was sent, completion what came back, other what total_tokens has beyond the two.",
		queries: []query{curve(`sum by (kind) (usage:llm_tokens:increase1h)`, "{{kind}}")},
	}))
	p.row("Prices")
	p.add(9, wide(14, priceList()), wide(10, &panel{title: "How to change a price", about: "Where prices come from.", look: note(priceHelp)}))
	return p
}

const priceHelp = "What a token costs is a table, a line per model, in USD per million tokens:\n\n" +
	"```\nmodel,prompt,completion\nlarge-1,3.00,15.00\nsmall-1,0.15,0.60\n```\n\n" +
	"Edit it in any spreadsheet or editor: it is the file that `usaged --prices.file` names, such as `dashboards/prices.csv`. " +
	"`POST /-/reload` or SIGHUP reads it again; a mistake is named by its line, and what was in force stays.\n\n" +
	"An empty cell is no price. Past days keep the prices of their days; totals have those of now. The box at the top of the page tries a " +
	"price for all that have none."

func money(title, about, expr string) *panel {
	return &panel{title: title, about: about, unit: "currencyUSD", look: number, steps: []step{{0, plain}}, decimals: ptr(2.0), queries: []query{now(expr, "")}}
}

// priceList is the operator's table, beside what each model used.
func priceList() *panel {
	price := func(kind string) query {
		return columnsOf(`max by (model) (usage_llm_price_usd_per_million{kind="` + kind + `"})`)
	}
	used := `sum by (model) (` + spent + `)`
	return &panel{
		title: "Prices per million tokens, and what they come to", unit: "short", look: grid, noValue: "–",
		about: "The table of prices, and every model that was used in the time shown, with its tokens and their cost. No price is not 0: such tokens " +
			"are left out of the cost, unless the box at the top of the page has a price for them.",
		queries: []query{
			price("prompt"), price("completion"),
			columnsOf(`round(` + used + ` > 0)`), columnsOf(cost),
			columnsOf(`(sum by (model) (` + spent + ` unless on (model, kind) ` + priceTable + `) or ` + used + ` * 0) / (` + used + ` > 0)`),
		},
		changes: []dashboard.DataTransformerConfig{
			joined(), largestFirst("Value #D"),
			titled([]string{"model", "Value #A", "Value #B", "Value #C", "Value #E", "Value #D"}, map[string]string{
				"model": "Model", "Value #A": "Prompt", "Value #B": "Completion", "Value #C": "Tokens", "Value #E": "Without price", "Value #D": "Cost",
			}),
		},
		special: []override{
			{name: "/Prompt|Completion/", properties: []dashboard.DynamicConfigValue{
				property("unit", "currencyUSD"), property("decimals", 2), property("noValue", "no price"),
			}},
			column("Without price", "percentunit", step{0, faint}, step{1e-9, bad}, step{0.2, worst}),
			bar("Cost", "currencyUSD"),
			{name: "Cost", properties: []dashboard.DynamicConfigValue{property("decimals", 2)}},
		},
	}
}
