package rules_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"usaged/aggregator/store/redis"
	"usaged/exporter"
	"usaged/rules/accept"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// unitTests returns the files of promtool's unit tests.
func unitTests(t *testing.T) (tests []unitTest) {
	t.Helper()
	files, err := filepath.Glob("tests/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no unit tests: %v", err)
	}
	for _, file := range files {
		var test unitTest
		if err := yaml.Unmarshal([]byte(read(t, file)), &test); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		tests = append(tests, test)
	}
	return tests
}

// selectors returns what an expression reads.
func selectors(t testing.TB, expr string) (list []*parser.VectorSelector) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			list = append(list, s)
		}
		return nil
	})
	return list
}

func TestNames(t *testing.T) {
	t.Parallel()
	record := regexp.MustCompile(`^usage:[a-z_]+:[a-z_0-9]+$`)
	for _, group := range shipped(t) {
		for _, rule := range group.Rules {
			if rule.Record != "" && !record.MatchString(rule.Record) {
				t.Errorf("%s is not usage:metric:operation", rule.Record)
			}
		}
	}
}

// TestMetricsExist looks up what the rules read: the families of a daemon in its golden file, those of Redis, and what the
// rules themselves record.
func TestMetricsExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for name := range redis.Help() {
		known[name] = true
	}
	for _, file := range []string{"../cmd/usaged/testdata/metrics.golden", "../exporter/testdata/usage.prom"} {
		for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(read(t, file), -1) {
			known[m[1]] = true
		}
	}
	descs := make(chan *prometheus.Desc, 20)
	exporter.NewGauges(exporter.GaugesConfig{Log: slog.New(slog.DiscardHandler)}).Describe(descs)
	normals, err := accept.Open(accept.Config{Path: filepath.Join(t.TempDir(), "none"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	normals.Describe(descs)
	close(descs)
	for desc := range descs { // a fresh daemon has no value for each
		known[regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(desc.String())[1]] = true
	}
	const sent = "usaged_remote_write_sent_until_timestamp_seconds" // where there is a receiver
	known[sent] = strings.Contains(read(t, "../exporter/remotewrite/metrics.go"), `"`+sent+`"`)
	for _, group := range shipped(t) {
		for _, rule := range group.Rules {
			known[rule.Record] = true
		}
	}
	for _, group := range shipped(t) {
		for _, rule := range group.Rules {
			for _, s := range selectors(t, rule.Expr) {
				if !known[s.Name] {
					t.Errorf("%s%s reads %s, which nobody exports and no rule records", rule.Record, rule.Alert, s.Name)
				}
			}
		}
	}
}

// TestNoRuleReadsItself holds that no rule reads what it records at the same evaluation.
func TestNoRuleReadsItself(t *testing.T) {
	t.Parallel()
	for _, group := range shipped(t) {
		for _, rule := range group.Rules {
			for _, s := range selectors(t, rule.Expr) {
				if rule.Record != "" && recordsItself(rule, s) {
					t.Errorf("%s%v reads itself: %s", rule.Record, rule.Labels, s)
				}
			}
		}
	}
}

// recordsItself says whether a selector of a rule's expression may match what the rule records.
func recordsItself(rule rulefmt.Rule, s *parser.VectorSelector) bool {
	if s.Name != rule.Record || s.OriginalOffset > 0 {
		return false
	}
	for _, m := range s.LabelMatchers {
		value, fixed := rule.Labels[m.Name]
		if m.Name != model.MetricNameLabel && fixed && !m.Matches(value) {
			return false
		}
	}
	return true
}

// unitTest is what we look at in a file of promtool's unit tests.
type unitTest struct {
	Tests []struct {
		Exprs []struct {
			Expr    string
			Samples []struct{ Labels string } `yaml:"exp_samples"`
		} `yaml:"promql_expr_test"`
		Alerts []struct {
			Name   string     `yaml:"alertname"`
			Alerts []struct{} `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

// TestEveryRuleIsTested expects a unit test to get a value from each rule, told from other rules of its name by the labels that it
// sets; and each alert to fire in one and not in another. Settings are tested by what they do.
func TestEveryRuleIsTested(t *testing.T) {
	t.Parallel()
	valued, fires, silent := []string{}, map[string]bool{}, map[string]bool{}
	for _, file := range unitTests(t) {
		for _, test := range file.Tests {
			for _, e := range test.Exprs {
				for _, s := range selectors(t, e.Expr) {
					for _, sample := range e.Samples {
						valued = append(valued, told(s, sample.Labels))
					}
				}
			}
			for _, a := range test.Alerts {
				if len(a.Alerts) > 0 {
					fires[a.Name] = true
				} else {
					silent[a.Name] = true
				}
			}
		}
	}
	for _, group := range shipped(t) {
		for _, rule := range group.Rules {
			switch {
			case group.Name == "usage_settings":
			case rule.Alert == "Watchdog": // is never silent
				if !fires[rule.Alert] {
					t.Error("no unit test has Watchdog fire")
				}
			case rule.Alert != "" && !(fires[rule.Alert] && silent[rule.Alert]):
				t.Errorf("unit tests of %s: one has it fire: %v, one not: %v", rule.Alert, fires[rule.Alert], silent[rule.Alert])
			case rule.Record != "" && !slices.ContainsFunc(valued, func(v string) bool { return isOf(rule, v) }):
				t.Errorf("no unit test gets a value of %s%v", rule.Record, rule.Labels)
			}
		}
	}
}

// told is all that is known of the series which a selector has found: what it matches, and the labels of the result.
func told(s *parser.VectorSelector, result string) string {
	text := s.Name + " " + result + " "
	for _, m := range s.LabelMatchers {
		if m.Type == labels.MatchEqual {
			text += fmt.Sprintf("%s=%q ", m.Name, m.Value)
		}
	}
	return text
}

// isOf says whether what is told is of a rule.
func isOf(rule rulefmt.Rule, told string) bool {
	name, rest, _ := strings.Cut(told, " ")
	if name == "" { // a regular expression, which the labels of the result tell
		name = rest[:strings.IndexAny(rest, "{ ")]
	}
	for label, value := range rule.Labels {
		if !strings.Contains(rest, fmt.Sprintf("%s=%q", label, value)) {
			return false
		}
	}
	return name == rule.Record
}

// TestAlertsAreExplained expects of each alert a severity, numbers, and its section in the runbooks.
func TestAlertsAreExplained(t *testing.T) {
	t.Parallel()
	page := read(t, "../docs/runbooks.md")
	for _, group := range shipped(t) {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			if !slices.Contains([]string{"critical", "warning", "info", "none"}, rule.Labels["severity"]) {
				t.Errorf("%s has the severity %q", rule.Alert, rule.Labels["severity"])
			}
			if rule.Annotations["summary"] == "" || !strings.Contains(rule.Annotations["description"], "$value") &&
				!strings.Contains(rule.Annotations["description"], "| value") {
				t.Errorf("%s needs a summary, and a description with a number", rule.Alert)
			}
			if want := "docs/runbooks.md#" + strings.ToLower(rule.Alert); rule.Annotations["runbook_url"] != want {
				t.Errorf("%s links to %q, want %s", rule.Alert, rule.Annotations["runbook_url"], want)
			}
			_, section, found := strings.Cut(page, "\n## "+rule.Alert+"\n")
			section, _, _ = strings.Cut(section, "\n## ")
			if !found {
				t.Errorf("runbooks.md has no section %s", rule.Alert)
			}
			for _, part := range []string{"**Meaning.**", "**Impact.**", "**Look at.**", "**Do.**"} {
				if found && !strings.Contains(section, part) {
					t.Errorf("runbooks.md says nothing of %s under %s", part, rule.Alert)
				}
			}
		}
	}
}
