package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"usaged/dashboards"
	"usaged/dashboards/dashboardtest"
	"usaged/rules"
)

// scraped once a second, so that there are rates soon.
const dashboardScrapes = "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 15s}\n"

// prices is the example of prices.
func prices(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../dashboards/prices.yml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// policyRules let the made-up traffic be normal, a third of which meets a policy, and set prices.
func policyRules(t *testing.T) string {
	t.Helper()
	return prices(t) + `
  - name: usage_settings_of_ours
    interval: 1m
    rules:
      - {record: usage:health:good, labels: {component: failures}, expr: vector(0.01)}
      - {record: usage:health:good, labels: {component: lag}, expr: vector(60)}
      - {record: usage:health:good, labels: {component: policy}, expr: vector(0.3)}
      - {record: usage:health:bad, labels: {component: failures}, expr: vector(0.1)}
      - {record: usage:health:bad, labels: {component: lag}, expr: vector(900)}
      - {record: usage:health:bad, labels: {component: policy}, expr: vector(1)}
`
}

// shippedRules are the rule files in the order in which they read each other, with the settings above.
func shippedRules(t *testing.T) (files []string) {
	t.Helper()
	for _, name := range []string{"usage.yml", "health.yml", "alerts.yml"} {
		data, err := fs.ReadFile(rules.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if name == "health.yml" {
			for was, is := range map[string]string{"0.01": "0.3", "0.1": "1"} {
				before := text
				text = strings.Replace(text, "{component: policy}, expr: vector("+was+")", "{component: policy}, expr: vector("+is+")", 1)
				if text == before {
					t.Fatalf("health.yml has no policy setting of %s", was)
				}
			}
		}
		files = append(files, text)
	}
	return files
}

// dashboardDaemon has counted the real data and a month of made-up events, and has a TSDB with what a replica before it had
// counted in sixteen days. A drop began five hours ago, and a job failed for a day some days ago, and fails since half an hour.
func dashboardDaemon(t *testing.T) *aged {
	t.Helper()
	rulesFile := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rulesFile, []byte(policyRules(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newInstance(t, "--prometheus.enabled=false")
	d.start()
	d.importFile(0, "--shift-to-now", "--jq="+wikiJQ, realData(t, wikiFile))
	d.importFile(1, "--shift-to-now", "--user="+aiderNobody, "--jq="+aiderJQ,
		"--rejects="+filepath.Join(t.TempDir(), "rejects"), realData(t, aiderFile)) // what is older than the retention is refused
	if got := d.usagectl("simulate", "--days=30", "--events-per-day=500", "--wait"); got.code != 0 {
		t.Fatalf("simulate: %s", got.stderr)
	}
	d.settle()
	d.stop()
	d.args = append(d.args[:len(d.args)-1], prometheusFile(t, dashboardScrapes), "--rules.file="+rulesFile)
	old := &aged{d, t.TempDir()}
	old.write(t)
	if err := os.CopyFS(filepath.Join(d.dir, "tsdb"), os.DirFS(old.history)); err != nil {
		t.Fatal(err)
	}
	d.start()
	return old
}

// aged is a daemon with a past.
type aged struct {
	*instance
	history string // a directory with a block of it
}

// write makes the past.
func (d *aged) write(t *testing.T) {
	t.Helper()
	traffic := d.usagectl("simulate", "--dry-run", "--days=16", "--events-per-day=1000", "--scenario=drop", "--last=5h")
	if traffic.code != 0 {
		t.Fatalf("simulate: %s", traffic.stderr)
	}
	var events []dashboardtest.Event
	lines := bufio.NewScanner(strings.NewReader(traffic.stdout))
	for lines.Scan() {
		var e dashboardtest.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	now := time.Now()
	fail := func(from, to time.Time, every time.Duration) {
		for at := from; at.Before(to); at = at.Add(every) {
			events = append(events, dashboardtest.Event{
				Type: "sql_execution", User: "svc-nightly", Source: "scheduler", Created: at, Metadata: map[string]string{"outcome": "failure"},
			})
		}
	}
	// Whatever the hour is, the mode changes, and also for who looks at it every twelve hours.
	fail(now.Add(-80*time.Hour), now.Add(-54*time.Hour), 30*time.Second)
	fail(now.Add(-30*time.Minute), now, 5*time.Second)
	slices.SortStableFunc(events, func(a, b dashboardtest.Event) int { return a.Created.Compare(b.Created) })
	dashboardtest.History{
		Events: events, From: events[0].Created.Truncate(time.Hour), To: now, Instance: "before:8080",
		Rules: append(shippedRules(t), prices(t)),
	}.Write(t, d.history)
}

// traffic keeps sending until the test ends, and waits until it can be seen in rates.
func (d *aged) traffic(a dashboardtest.API) {
	d.tb.Helper()
	cmd := d.usagectlCommand("simulate", "--days=0", "--live", "--rate=36000")
	p := spawn(d.tb, cmd)
	d.tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		<-p.exited
	})
	awaitRates(d.tb, a)
}

// awaitRates waits until a Prometheus has seen some of the traffic.
func awaitRates(tb testing.TB, a dashboardtest.API) {
	tb.Helper()
	eventually(tb, "rates of what is sent", func() error {
		n, err := a.Count(`sum(rate(usaged_ingest_events_total[1m])) > 0 and sum(rate(usaged_applied_events_total[1m])) > 0`)
		if err == nil && n == 0 {
			err = errors.New("none yet")
		}
		return err
	})
}

// TestDashboards asks a daemon everything that the dashboards ask, and then a real Prometheus that scrapes the daemon and has the
// same rules and history.
//
// It computes weeks of rules and asks three servers, so it is no quick test.
func TestDashboards(t *testing.T) {
	t.Parallel()
	if !full() {
		t.Skip(fullEnv + " is not set: make dashboards-test asks a daemon everything that the dashboards ask")
	}
	d := dashboardDaemon(t)
	a := dashboardtest.API{URL: d.url + "/prometheus", Token: d.token("viewer")}
	pages := dashboardtest.Read(t, dashboards.FS)
	if len(pages) != 7 {
		t.Errorf("%d dashboards, want six and the runbooks", len(pages))
	}
	d.traffic(a)
	dashboardtest.Ask(t, a, pages)
	for _, program := range []string{debianPrometheus, modulePrometheus} {
		t.Run(program, func(t *testing.T) {
			p := d.scrapedBy(t, program)
			a := dashboardtest.API{URL: "http://" + p.address}
			awaitRates(t, a)
			dashboardtest.Ask(t, a, pages)
		})
	}
}

// scrapedBy starts a Prometheus with the daemon's past.
func (d *aged) scrapedBy(t *testing.T, program string) *realPrometheus {
	t.Helper()
	dir := t.TempDir()
	for i, text := range append(shippedRules(t), prices(t)) {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yml", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := newPrometheus(t, program, dashboardScrapes+"rule_files: [\""+dir+"/*.yml\"]\n"+
		"scrape_configs: [{job_name: usaged, static_configs: [{targets: [\""+strings.TrimPrefix(d.url, "http://")+"\"]}]}]\n",
		"--storage.tsdb.retention.time=60d")
	if err := os.CopyFS(p.tsdb(), os.DirFS(d.history)); err != nil {
		t.Fatal(err)
	}
	p.start()
	return p
}
