package main

import (
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

// tag is what all our dashboards have, by which they list each other.
const tag = "usaged"

func dataSourceVariable() cog.Builder[dashboard.VariableModel] {
	return dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").
		Description("usaged itself (its address with /prometheus behind it), or a Prometheus, Mimir or VictoriaMetrics that has its samples and rules.").
		Type("prometheus").AllowCustomValue(false)
}

// labelVariable lets the reader choose values of a label, at first all.
func labelVariable(name, label, metric, about string) cog.Builder[dashboard.VariableModel] {
	query := "label_values(" + metric + ", " + name + ")"
	return dashboard.NewQueryVariableBuilder(name).Label(label).Description(about).
		Datasource(source()).Query(queryOf(query, name)).Definition(query).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).IncludeAll(true).AllValue(".+").
		Current(option("All", "$__all"))
}

// choiceVariable lets the reader choose one value of a label.
func choiceVariable(name, label, metric, first, about string) cog.Builder[dashboard.VariableModel] {
	query := "label_values(" + metric + ", " + name + ")"
	return dashboard.NewQueryVariableBuilder(name).Label(label).Description(about).
		Datasource(source()).Query(queryOf(query, name)).Definition(query).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc).
		Current(option(first, first))
}

// listVariable lets the reader choose one of the values that there are.
func listVariable(name, label string, values []string, first, about string) cog.Builder[dashboard.VariableModel] {
	list := strings.Join(values, ",")
	options := make([]dashboard.VariableOption, len(values))
	for i, v := range values {
		options[i] = option(v, v)
	}
	return dashboard.NewCustomVariableBuilder(name).Label(label).Description(about).
		Values(dashboard.StringOrMap{String: &list}).Options(options).Current(option(first, first))
}

func textVariable(name, label, value, about string) cog.Builder[dashboard.VariableModel] {
	return dashboard.NewTextBoxVariableBuilder(name).Label(label).Description(about).
		DefaultValue(dashboard.StringOrMap{String: &value}).Current(option(value, value))
}

// queryOf is the form in which Grafana's editor stores the query of a variable.
func queryOf(query, name string) dashboard.StringOrMap {
	return dashboard.StringOrMap{Map: map[string]any{"query": query, "refId": "variable-" + name, "qryType": 1}}
}

func option(text, value string) dashboard.VariableOption {
	return dashboard.VariableOption{
		Text:  dashboard.StringOrArrayOfString{String: &text},
		Value: dashboard.StringOrArrayOfString{String: &value},
	}
}

// links are in the upper right corner of each dashboard: to the others, with the data source, and to the runbooks. Each has its
// own span of time.
func links() []cog.Builder[dashboard.DashboardLink] {
	return []cog.Builder[dashboard.DashboardLink]{
		dashboard.NewDashboardLinkBuilder("usaged").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{tag}).
			AsDropdown(true).IncludeVars(true).KeepTime(false).Tooltip("The other dashboards about usage, and about usaged itself"),
		dashboard.NewDashboardLinkBuilder("Runbooks").Type(dashboard.DashboardLinkTypeLink).Url("/d/usaged-runbooks").
			Icon("doc").Tooltip("What each alert means and what to do"),
	}
}

// annotations mark in every graph what explains a break in it. Each compares a point of the graph with the one before, so that
// a change between two points is not missed, however far they are apart.
//
// Where the score is not the subject, only what is serious is marked; the other changes can be switched on.
func annotations(everyMode bool) []cog.Builder[dashboard.AnnotationQuery] {
	return []cog.Builder[dashboard.AnnotationQuery]{
		mark("Restarts", "orange", "usaged restarted", "{{instance}}",
			`(process_start_time_seconds and on (job, instance) usaged_build_info) != process_start_time_seconds offset $__interval`),
		mark("Versions", "blue", "usaged has another version", "{{version}} on {{instance}}",
			`count by (instance, version) (usaged_build_info) unless count by (instance, version) (usaged_build_info offset $__interval)
and on (instance) count by (instance) (usaged_build_info offset $__interval)`),
		mark("Modes", "purple", "The mode changed", "mode {{mode}} (0 normal, 1 watch, 2 degraded, 3 critical)",
			`count_values("mode", usage:health:mode != usage:health:mode offset $__interval)`).Enable(everyMode),
		mark("Degraded", "red", "The mode became degraded or critical", "see the dashboard System Manager",
			`max_over_time(usage:health:mode[$__interval]) >= 2 unless max_over_time(usage:health:mode[$__interval] offset $__interval) >= 2`).Enable(!everyMode),
	}
}

func mark(name, color, title, text, expr string) *dashboard.AnnotationQueryBuilder {
	return dashboard.NewAnnotationQueryBuilder().Name(name).Datasource(source()).Enable(true).IconColor(color).
		TitleFormat(title).TextFormat(text).
		Target(prometheus.NewDataqueryBuilder().Expr(expr).Range().Interval("1m").RefId("A").Datasource(source()))
}

// linkTo is a link in the upper left corner of a panel.
type linkTo struct{ title, url string }

// toDashboard leads to another of our dashboards, which keeps the data source and the time.
func toDashboard(title, name string) linkTo {
	return linkTo{title, "/d/usaged-" + name + "?${datasource:queryparam}&${__url_time_range}"}
}

func (l linkTo) build() dashboard.DashboardLink {
	link := dashboard.NewDashboardLink()
	link.Type, link.Title, link.Url = dashboard.DashboardLinkTypeLink, l.title, &l.url
	link.Placement = nil
	return *link
}
