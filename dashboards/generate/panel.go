package main

import (
	"fmt"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

// panel is one question and what answers it.
type panel struct {
	title string
	about string // in the tooltip: what is shown, and what to do about it
	look  look
	unit  string

	queries  []query
	decimals *float64
	min, max *float64
	steps    []step // colours by value; the first is for what is below the second
	mappings []dashboard.ValueMapping
	special  []override
	changes  []dashboard.DataTransformerConfig // in the order in which Grafana applies them
	interval string                            // the least distance of two points
	noValue  string                            // instead of a value that is absent
	links    []linkTo
	during   string // instead of the dashboard's time

	id uint32
	at dashboard.GridPos
}

// look is what draws a panel, with the options that are its own.
type look func() cog.Builder[dashboard.Panel]

// query is PromQL. An instant one gives values, another one curves.
type query struct {
	expr, name string // name is what the legend has for a series: {{label}}
	instant    bool
	table      bool
}

// step colours from a value on.
type step struct {
	from  float64
	color string
}

// override is what is different for one series or column.
type override struct {
	name       string // or, with slashes around it, an expression
	properties []dashboard.DynamicConfigValue
}

func curve(expr, name string) query    { return query{expr: expr, name: name} }
func now(expr, name string) query      { return query{expr: expr, name: name, instant: true} }
func columnsOf(expr string) query      { return query{expr: expr, instant: true, table: true} }
func ptr[T any](v T) *T                { return &v }
func wide(width uint32, p *panel) cell { return cell{width, p} }

func property(id string, value any) dashboard.DynamicConfigValue {
	return dashboard.DynamicConfigValue{Id: id, Value: value}
}

func (p *panel) build() (*dashboard.Panel, error) {
	built, err := p.look().Build()
	if err != nil {
		return nil, fmt.Errorf("panel %q: %w", p.title, err)
	}
	ds := source()
	built.Id, built.GridPos, built.Title, built.Description = &p.id, &p.at, &p.title, &p.about
	if len(p.queries) > 0 {
		built.Datasource = &ds
	}
	for i, q := range p.queries {
		target, err := q.build(string(rune('A'+i)), p.interval)
		if err != nil {
			return nil, fmt.Errorf("panel %q: %w", p.title, err)
		}
		built.Targets = append(built.Targets, target)
	}
	if p.interval != "" {
		built.Interval = &p.interval
	}
	built.Transformations = p.changes
	if p.during != "" {
		built.TimeFrom = &p.during
	}
	for _, l := range p.links {
		built.Links = append(built.Links, l.build())
	}
	p.fields(&built)
	return &built, nil
}

// fields fills in what says how values are written and coloured.
func (p *panel) fields(built *dashboard.Panel) {
	if built.FieldConfig == nil {
		built.FieldConfig = dashboard.NewFieldConfigSource()
	}
	f := &built.FieldConfig.Defaults
	if p.unit != "" {
		f.Unit = &p.unit
	}
	f.Decimals, f.Min, f.Max, f.Mappings = p.decimals, p.min, p.max, p.mappings
	if p.noValue == "" {
		p.noValue = "nothing in the time shown"
	}
	if len(p.queries) > 0 {
		f.NoValue = &p.noValue
	}
	if len(p.steps) > 0 {
		f.Thresholds = thresholds(p.steps)
	}
	for _, o := range p.special {
		matcher := dashboard.MatcherConfig{Id: "byName", Options: o.name}
		if strings.HasPrefix(o.name, "/") {
			matcher.Id = "byRegexp"
		}
		built.FieldConfig.Overrides = append(built.FieldConfig.Overrides,
			dashboard.DashboardFieldConfigSourceOverrides{Matcher: matcher, Properties: o.properties})
	}
}

func thresholds(steps []step) *dashboard.ThresholdsConfig {
	c := &dashboard.ThresholdsConfig{Mode: dashboard.ThresholdsModeAbsolute}
	for i, s := range steps {
		t := dashboard.Threshold{Color: s.color}
		if i > 0 {
			t.Value = ptr(s.from)
		}
		c.Steps = append(c.Steps, t)
	}
	return c
}

func (q query) build(ref, interval string) (variants.Dataquery, error) {
	b := prometheus.NewDataqueryBuilder().Expr(q.expr).RefId(ref).Datasource(source()).
		EditorMode(prometheus.QueryEditorModeCode)
	if q.name != "" {
		b.LegendFormat(q.name)
	}
	if interval != "" && !q.instant {
		b.Interval(interval)
	}
	if q.instant {
		b.Instant()
	} else {
		b.Range()
	}
	if q.table {
		b.Format(prometheus.PromQueryFormatTable)
	}
	return b.Build()
}
