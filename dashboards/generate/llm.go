package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// Prices are recorded by the operator's rules; a model that has none there costs what the reader types in.
const (
	priceTable = `max by (model, kind) (usage:llm_price:usd_per_million)`
	anyPrice   = `(` + priceTable + ` or on (model, kind) 0 * usage:llm_tokens:rate5m + $default_price)`
	spent      = `sum by (model, kind) (increase(usage_llm_tokens_total[$__range]))`
	cost       = `sum by (model) (` + spent + ` * on (model, kind) ` + anyPrice + `) / 1e6`
	unpriced   = `sum(` + spent + ` unless on (model, kind) ` + priceTable + `)`
)

func llm() *page {
	p := &page{name: "llm", title: "usaged: LLM tokens and cost by model", from: "now-7d", refresh: "5m",
		about: "What language models cost, which of them, and where it goes. Prices are yours: see the table of prices at the end."}
	p.variables = []cog.Builder[dashboard.VariableModel]{
		textVariable("default_price", "Price if none", "0", "USD per million tokens of models without a price, for a quick look. Lasting prices are in the rules file."),
	}
	p.add(5,
		wide(8, &panel{
			title: "Cost", unit: "currencyUSD", look: numbers, decimals: ptr(2.0), steps: []step{{0, plain}}, noValue: "too early",
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
			about:   "The part of the tokens whose model and kind have no price in the rules file. The cost is too low by what they cost.",
			queries: []query{now(`(`+unpriced+` or vector(0)) / (sum(increase(usage_llm_tokens_total[$__range])) > 0)`, "")},
		}))
	p.row("Cost")
	p.add(8, wide(8, &panel{
		title: "Cost by model", unit: "currencyUSD", look: bars, steps: []step{{0, plain}}, min: ptr(0.0), decimals: ptr(2.0),
		about:   "Of the time shown, the ten dearest.",
		queries: []query{now(`sort_desc(topk(10, `+cost+`))`, "{{model}}")},
	}), wide(16, &panel{
		title: "Cost a day by model", unit: "currencyUSD", look: days, interval: "1d", decimals: ptr(2.0),
		about:   "Each bar is one day that is over. A day is 24 hours of what was recorded.",
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

const priceHelp = "Prices are rules, so that every dashboard, alert and query has the same, and their history is kept: the bars of past days " +
	"have the prices of their days, the totals those of now.\n\n" +
	"1. Copy `dashboards/prices.yml`, or add its group to the rules file that you have.\n" +
	"2. One line is one price: `model`, `kind` (`prompt`, `completion` or `other`), and USD per million tokens.\n" +
	"3. Start `usaged` with `--rules.file=prices.yml`; later `POST /-/reload`, or SIGHUP, reads it again. In a Prometheus it goes under `rule_files`.\n\n" +
	"The box at the top of this page is for a quick look: what a million tokens cost of models that have no price."

func money(title, about, expr string) *panel {
	return &panel{title: title, about: about, unit: "currencyUSD", look: number, steps: []step{{0, plain}}, decimals: ptr(2.0), queries: []query{now(expr, "")}}
}

func priceList() *panel {
	return &panel{
		title: "Prices, and what they come to", unit: "short", look: grid, noValue: "–",
		about: "Every model and kind of token in the time shown, with its price, and the cost. A price in red is none: the box at the top of the page is taken.",
		queries: []query{
			columnsOf(priceTable + ` or on (model, kind) 0 * (` + spent + ` > 0) + $default_price`),
			columnsOf(spent + ` > 0`),
			columnsOf(`(` + spent + ` > 0) * on (model, kind) ` + anyPrice + ` / 1e6`),
		},
		changes: []dashboard.DataTransformerConfig{
			joined(), largestFirst("Value #C"),
			titled([]string{"model", "kind", "Value #A", "Value #B", "Value #C"}, map[string]string{
				"model": "Model", "kind": "Kind", "Value #A": "USD per million", "Value #B": "Tokens", "Value #C": "Cost",
			}),
		},
		special: []override{
			column("USD per million", "currencyUSD", step{0, worst}, step{1e-6, faint}),
			column("Tokens", "short"), bar("Cost", "currencyUSD"),
		},
	}
}
