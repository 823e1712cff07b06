package dashboards_test

import (
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"usaged/aggregator/store/redis"
	"usaged/dashboards"
	"usaged/dashboards/dashboardtest"
	"usaged/exporter/remotewrite"
	"usaged/rules"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// exported is everything that a scrape of a daemon can have: its golden file; the metrics of Go, of the process and of the
// embedded Prometheus; and what a daemon has that
// sends samples, has a Redis, or is quiet.
func exported(t *testing.T) schema {
	t.Helper()
	s := schema{"up": namesOf("job", "instance")}
	golden := read(t, "../cmd/usaged/testdata/metrics.golden")
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)`).FindAllStringSubmatch(golden, -1) {
		s.scraped(m[1])
		if m[2] == "histogram" {
			s.scraped(m[1]+"_bucket", "le")
			s.scraped(m[1] + "_sum")
			s.scraped(m[1] + "_count")
		}
	}
	label := regexp.MustCompile(`(\w+)="`)
	for _, m := range regexp.MustCompile(`(?m)^(\w+)\{(.*)\}$`).FindAllStringSubmatch(golden, -1) {
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
				if s[m[1]+suffix] != nil {
					s[m[1]+suffix][l[1]] = true
				}
			}
		}
	}
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		s.describe(c)
	}
	registry := read(t, "../exporter/embedded/registry.go")
	for _, m := range regexp.MustCompile(`"(prometheus_\w+)": +true`).FindAllStringSubmatch(registry, -1) {
		s.scraped(m[1], "rule_group", "alertmanager", "name", "slice")
	}
	for name := range remotewrite.Help() {
		s.scraped(name, "endpoint", "outcome", "reason")
	}
	for name := range redis.Help() {
		s.scraped(name, "class")
	}
	for _, name := range []string{"usaged_quiet", "usaged_accepted_activity_ratio", "usaged_accepted_activity_timestamp_seconds"} {
		s.scraped(name, "event_type")
	}
	return s
}

// scraped adds a metric that comes from a target.
func (s schema) scraped(name string, labels ...string) {
	s[name] = namesOf("job", "instance").and(labels...)
}

// describe adds what a collector describes.
func (s schema) describe(c prometheus.Collector) {
	descs := make(chan *prometheus.Desc, 1000)
	c.Describe(descs)
	close(descs)
	for desc := range descs {
		if m := regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(desc.String()); m != nil {
			s.scraped(m[1])
		}
	}
}

// record adds what rule files record, and checks them. Rules read what others have recorded before, also such as come behind them: so their
// labels are known when no pass over the files finds more.
func (s schema) record(t *testing.T) {
	t.Helper()
	files := [][]byte{}
	for _, name := range []string{"usage.yml", "health.yml", "alerts.yml"} {
		data, err := fs.ReadFile(rules.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, data)
	}
	s["ALERTS"] = namesOf("alertname", "alertstate")
	var rules []rulefmt.Rule
	for _, data := range files {
		file, errs := rulefmt.Parse(data, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
		for _, err := range errs {
			t.Fatal(err)
		}
		for _, group := range file.Groups {
			rules = append(rules, group.Rules...)
		}
	}
	for found := -1; found != s.size(); {
		found = s.size()
		for _, rule := range rules {
			s.rule(rule)
		}
	}
	for _, rule := range rules {
		for _, err := range s.rule(rule) {
			t.Errorf("rule %s%s: %v", rule.Record, rule.Alert, err)
		}
	}
}

// size is how many names and labels are known.
func (s schema) size() (n int) {
	for _, labels := range s {
		n += 1 + len(labels)
	}
	return n
}

func (s schema) rule(rule rulefmt.Rule) (faults []error) {
	name := rule.Record
	if rule.Alert != "" {
		name = "ALERTS"
	} else if s[name] == nil {
		s[name] = names{} // a rule of several may read one of the others
	}
	labels, faults := s.check(rule.Expr)
	s[name] = s[name].and(slices.Collect(maps.Keys(labels))...).and(slices.Collect(maps.Keys(rule.Labels))...)
	return faults
}

// plain puts something for the variables, so that an expression can be parsed.
var plain = strings.NewReplacer("$__rate_interval", "1m", "$__range", "7d", "$__interval", "1m", "$default_price", "0",
	"$job", ".+", "$instance", ".+", "$event_type", "__all__", "$window", "1h")

// TestEverythingNamedExists looks up every metric and label that a rule, panel, variable, legend or annotation names.
func TestEverythingNamedExists(t *testing.T) {
	t.Parallel()
	s := exported(t)
	s.record(t)
	for _, p := range dashboardtest.Read(t, dashboards.FS) {
		for _, panel := range p.All() {
			for _, target := range panel.Targets {
				labels, faults := s.check(plain.Replace(target.Expr))
				for _, err := range faults {
					t.Errorf("%s, panel %q: %v", p.Title, panel.Title, err)
				}
				expectLegend(t, p.Title+", panel "+panel.Title, target.LegendFormat, labels)
			}
		}
		for _, n := range p.Annotations.List {
			labels, faults := s.check(plain.Replace(n.Target.Expr))
			for _, err := range faults {
				t.Errorf("%s, annotation %q: %v", p.Title, n.Name, err)
			}
			expectLegend(t, p.Title+", annotation "+n.Name, n.TitleFormat+n.TextFormat, labels)
		}
		for _, v := range p.Templating.List {
			m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Definition)
			if v.Type != "query" || m == nil {
				continue
			}
			labels, faults := s.check(plain.Replace(m[1]))
			if len(faults) > 0 || !labels[m[2]] {
				t.Errorf("%s, variable %s: %v, labels %v", p.Title, v.Name, faults, labels)
			}
		}
	}
}

// expectLegend expects the labels that a text names.
func expectLegend(t *testing.T, what, text string, labels names) {
	t.Helper()
	for _, m := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(text, -1) {
		if !labels[m[1]] {
			t.Errorf("%s: the legend names the label %s, and there is %v", what, m[1], slices.Sorted(maps.Keys(labels)))
		}
	}
}

// TestContractCanFail breaks names in ways that a renaming would.
func TestContractCanFail(t *testing.T) {
	t.Parallel()
	s := exported(t)
	s.record(t)
	for _, expr := range []string{
		`usage_event_total`, `sum by (type) (rate(usage_events_total[1m]))`, `usage:health:mode{event_type="a"}`,
		`usage_llm_price_usd_per_million * on (model, sort) usage:llm_tokens:rate5m`, `usaged_apply_duration_seconds_buckets`,
		`usage_events_total{outcome="failure"}`,
	} {
		if _, faults := s.check(expr); len(faults) == 0 {
			t.Errorf("%s passes", expr)
		}
	}
}
