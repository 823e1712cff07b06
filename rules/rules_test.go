package rules_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"usaged/aggregator/store/redis"
	"usaged/exporter"
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
func unitTests(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("tests/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no unit tests: %v", err)
	}
	var all strings.Builder
	for _, file := range files {
		all.WriteString(read(t, file))
	}
	return all.String()
}

// selectors returns what an expression reads.
func selectors(t *testing.T, expr string) (list []*parser.VectorSelector) {
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
// rules themselves record before.
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
	descs := make(chan *prometheus.Desc, 10)
	exporter.NewGauges(exporter.GaugesConfig{Log: slog.New(slog.DiscardHandler)}).Describe(descs)
	close(descs)
	for desc := range descs { // a fresh daemon has no value for each
		known[regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(desc.String())[1]] = true
	}
	const sent = "usaged_remote_write_sent_until_timestamp_seconds" // where there is a receiver
	known[sent] = strings.Contains(read(t, "../exporter/remotewrite/metrics.go"), `"`+sent+`"`)
	known["usaged_quiet"] = true // absent is not quiet
	for _, group := range shipped(t) {
		for _, rule := range group.Rules {
			for _, s := range selectors(t, rule.Expr) {
				if !known[s.Name] && !recordsItself(rule, s) {
					t.Errorf("%s%s reads %s, which nobody exports and no rule before it records", rule.Record, rule.Alert, s.Name)
				}
			}
			known[rule.Record] = true
		}
	}
}

// TestNoRuleReadsItself holds what makes an evaluation of the past in one go right, and a score that cannot lock itself in.
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

// TestEveryRuleIsTested expects a unit test to name each rule. Settings are tested by what they do.
func TestEveryRuleIsTested(t *testing.T) {
	t.Parallel()
	tests := unitTests(t)
	for _, group := range shipped(t) {
		if group.Name == "usage_settings" {
			continue
		}
		for _, rule := range group.Rules {
			if name := rule.Record + rule.Alert; !regexp.MustCompile(regexp.QuoteMeta(name) + `\b`).MatchString(tests) {
				if !strings.Contains(tests, "{__name__=~") || !matchedByPattern(tests, name) {
					t.Errorf("no unit test names %s", name)
				}
			}
		}
	}
}

func matchedByPattern(tests, name string) bool {
	for _, m := range regexp.MustCompile(`__name__=~"([^"]+)"`).FindAllStringSubmatch(tests, -1) {
		if regexp.MustCompile(`^(?:` + m[1] + `)$`).MatchString(name) {
			return true
		}
	}
	return false
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
			if !slices.Contains([]string{"critical", "warning", "none"}, rule.Labels["severity"]) {
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
