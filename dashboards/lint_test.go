package dashboards_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"usaged/dashboards"
)

// The rules of Grafana's dashboard-linter, by its names, for the types of panels that we have. It checks some types only;
// here they hold for all that draw something.

// sheet is what the rules look at in a dashboard.
type sheet struct {
	UID, Title, Description string
	Editable                bool
	SchemaVersion           int
	Panels                  []*drawn
	Templating              struct{ List []*variable }
	Links                   []struct{ Title, URL, Type string }
}

type dataSource struct{ Type, UID string }

type drawn struct {
	ID                       int
	Type, Title, Description string
	DataSource               *dataSource
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []*target
	Panels                   []*drawn
	FieldConfig              struct {
		Defaults struct {
			Unit     string
			Mappings []any
		}
	}
	Links []struct{ URL string }
}

type target struct {
	Expr       string
	DataSource *dataSource
	Instant    bool
}

type variable struct {
	Name, Type, Label, AllValue, Definition string
	Multi                                   bool
	Refresh                                 int
	Query                                   any
	DataSource                              *dataSource
}

func sheets(t *testing.T) (list []*sheet) {
	t.Helper()
	names, err := fs.Glob(dashboards.FS, "*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("dashboards %v, %v; want some", names, err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(dashboards.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		var s sheet
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list = append(list, &s)
	}
	return list
}

// all returns the panels, those in rows too.
func (s *sheet) all() (list []*drawn) {
	for _, p := range s.Panels {
		list = append(list, p)
		list = append(list, p.Panels...)
	}
	return list
}

// finding is what a rule says against a panel, or against a whole dashboard where panel is empty.
type finding struct{ rule, panel, text string }

// units that are used. The linter has the list of all.
var units = []string{"none", "short", "percentunit", "s", "bytes", "eps", "reqps", "currencyUSD"}

func (s *sheet) lint() (found []finding) {
	say := func(rule, panel, format string, args ...any) {
		found = append(found, finding{rule, panel, fmt.Sprintf(format, args...)})
	}
	if s.Editable {
		say("uneditable-dashboard", "", "it is editable")
	}
	s.lintVariables(say)
	for _, p := range s.all() {
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || p.Description == "" {
			say("panel-title-description-rule", p.Title, "the title is %q, the description %q", p.Title, p.Description)
		}
		if p.Type == "text" {
			continue
		}
		if p.DataSource == nil || p.DataSource.UID != "${datasource}" {
			say("panel-datasource-rule", p.Title, "it does not use $datasource")
		}
		if len(p.FieldConfig.Defaults.Mappings) == 0 && !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
			say("panel-units-rule", p.Title, "its unit is %q", p.FieldConfig.Defaults.Unit)
		}
		if len(p.Targets) == 0 {
			say("panel-no-targets-rule", p.Title, "it asks nothing")
		}
		for _, target := range p.Targets {
			target.lint(func(rule, format string, args ...any) { say(rule, p.Title, format, args...) })
		}
	}
	return found
}

func (s *sheet) lintVariables(say func(rule, panel, format string, args ...any)) {
	byName := map[string]*variable{}
	sources := 0
	for _, v := range s.Templating.List {
		byName[v.Name] = v
		if v.Type == "datasource" {
			sources++
			if v.Name != "datasource" || v.Label != "Data source" || v.Query != "prometheus" {
				say("template-datasource-rule", "", "the variable is %q, labelled %q, of %v", v.Name, v.Label, v.Query)
			}
		}
		if v.Type != "query" {
			continue
		}
		if v.Refresh != 2 {
			say("template-on-time-change-reload-rule", "", "%s is not read again when the time changes", v.Name)
		}
		inside := strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")")
		selector, _, found := strings.Cut(inside, ", ")
		if _, err := parse(selector); err != nil || !found || inside == v.Definition {
			say("template-label-promql-rule", "", "%s asks for %s: %v", v.Name, v.Definition, err)
		}
	}
	if sources != 1 {
		say("template-datasource-rule", "", "it has %d variables for data sources", sources)
	}
	for _, name := range []string{"job", "instance"} {
		v := byName[name]
		if v == nil || v.DataSource == nil || v.DataSource.UID != "${datasource}" || !v.Multi || v.AllValue != ".+" || !strings.EqualFold(v.Label, name) {
			say("template-"+name+"-rule", "", "the variable %s is missing or wrong: %+v", name, v)
		}
	}
}

func parse(expr string) (parser.Expr, error) {
	return parser.NewParser(parser.Options{}).ParseExpr(strings.NewReplacer(
		"$__rate_interval", "61s", "$__range", "7d", "$__interval", "62s", "$default_price", "0").Replace(expr))
}

func (q *target) lint(say func(rule, format string, args ...any)) {
	if q.DataSource == nil || q.DataSource.UID != "${datasource}" {
		say("panel-datasource-rule", "a query does not use $datasource")
	}
	parsed, err := parse(q.Expr)
	if err != nil {
		say("target-promql-rule", "%v", err)
		return
	}
	parser.Inspect(parsed, func(node parser.Node, path []parser.Node) error {
		s, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		for _, name := range []string{"job", "instance"} {
			if !slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == name && m.Value == "$"+name }) {
				say("target-"+name+"-rule", "%s has no matcher of %s", s, name)
			}
		}
		window, function := ranged(path)
		if (function == "rate" || function == "irate") && window != "1m1s" {
			say("target-rate-interval-rule", "%s over %s instead of $__rate_interval", function, window)
		}
		if strings.HasSuffix(s.Name, "_total") && !slices.Contains([]string{"rate", "irate", "increase"}, function) {
			say("target-counter-agg-rule", "%s is a counter and neither rate nor increase is taken", s)
		}
		return nil
	})
}

// ranged says over what range a selector is taken, and by which function.
func ranged(path []parser.Node) (window, function string) {
	for _, node := range slices.Backward(path) {
		switch n := node.(type) {
		case *parser.MatrixSelector:
			window = n.Range.String()
		case *parser.Call:
			return window, n.Func.Name
		}
	}
	return window, ""
}

// excused says whether .lint has a rule, dashboard and panel.
type exclusions map[string]struct {
	Reason  string
	Entries []struct{ Dashboard, Panel string }
}

func (e exclusions) excused(title string, f finding) bool {
	for _, entry := range e[f.rule].Entries {
		if entry.Dashboard == title && (entry.Panel == "" || entry.Panel == f.panel) {
			return true
		}
	}
	return false
}

func TestLint(t *testing.T) {
	t.Parallel()
	var file struct{ Exclusions exclusions }
	if err := yaml.Unmarshal([]byte(read(t, ".lint")), &file); err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for _, s := range sheets(t) {
		for _, f := range s.lint() {
			if file.Exclusions.excused(s.Title, f) {
				needed[f.rule+s.Title] = true
				continue
			}
			t.Errorf("%s, panel %q: %s: %s", s.Title, f.panel, f.rule, f.text)
		}
	}
	for _, rule := range slices.Sorted(maps.Keys(file.Exclusions)) {
		for _, entry := range file.Exclusions[rule].Entries {
			if !needed[rule+entry.Dashboard] {
				t.Errorf(".lint excludes %s for %q for nothing", rule, entry.Dashboard)
			}
		}
		if file.Exclusions[rule].Reason == "" {
			t.Errorf(".lint excludes %s without a reason", rule)
		}
	}
}

// TestLintFinds breaks each rule.
func TestLintFinds(t *testing.T) {
	t.Parallel()
	ours := &dataSource{UID: "${datasource}"}
	theirs := &dataSource{UID: "x"}
	panel := &drawn{Type: "stat", Title: "a", DataSource: theirs, Targets: []*target{
		{Expr: "rate(a_total[5m])", DataSource: theirs}, {Expr: "a_total", DataSource: ours}, {Expr: "(", DataSource: ours},
	}}
	s := &sheet{Editable: true, Panels: []*drawn{panel, {Type: "stat"}}}
	s.Templating.List = []*variable{{Type: "query", Definition: "label_values(("}}
	got := map[string]bool{}
	for _, f := range s.lint() {
		got[f.rule] = true
	}
	for _, rule := range []string{
		"uneditable-dashboard", "template-datasource-rule", "template-job-rule", "template-instance-rule", "template-label-promql-rule",
		"template-on-time-change-reload-rule", "panel-datasource-rule", "panel-title-description-rule", "panel-units-rule", "panel-no-targets-rule",
		"target-promql-rule", "target-rate-interval-rule", "target-job-rule", "target-instance-rule", "target-counter-agg-rule",
	} {
		if !got[rule] {
			t.Errorf("%s was not broken", rule)
		}
	}
}
