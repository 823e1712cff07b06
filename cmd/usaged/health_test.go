package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	healthPath = "/api/v1/usage/health"
	quietPath  = "/api/v1/usage/quiet"
)

// secondly is a --config.file whose scrapes don't time out on a busy machine.
const secondly = "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"

// fastRules is a --rules.file with the shipped rules of some files, evaluated every second. It returns the flag.
func fastRules(t *testing.T, names ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.yml")
	text := "groups:\n"
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("..", "..", "rules", name))
		if err != nil {
			t.Fatal(err)
		}
		_, groups, found := strings.Cut(string(data), "\ngroups:\n")
		if !found || !strings.Contains(groups, "    interval: 1m\n") {
			t.Fatalf("%s has no groups of a minute", name)
		}
		text += strings.ReplaceAll(groups, "    interval: 1m\n", "    interval: 1s\n")
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--rules.file=" + path
}

// subject is what we look at in the answer about health.
type subject struct {
	Mode        string
	Score       *float64
	Reason      string
	Text        string
	EvaluatedAt time.Time `json:"evaluated_at"`
	Components  map[string]struct {
		Value  *float64
		Reason string
		Text   string
	}
	Types map[string]subject `json:"event_types"`
}

// healthBecomes waits until the answer about health is so.
func (d *instance) healthBecomes(what string, so func(h *subject) bool) *subject {
	d.tb.Helper()
	var h subject
	eventually(d.tb, what, func() error {
		h = subject{}
		if err := d.tryJSON(healthPath, &h); err != nil {
			return err
		}
		if !so(&h) {
			return fmt.Errorf("%s, reason %s: %s", h.Mode, h.Reason, h.Text)
		}
		return nil
	})
	return &h
}

func unknownFor(reason string) func(h *subject) bool {
	return func(h *subject) bool { return h.Mode == "unknown" && h.Reason == reason && h.Score == nil }
}

// outcomes are events of which so many failed.
func outcomes(eventType string, good, bad int) (lines []string) {
	for i := range good + bad {
		outcome := "success"
		if i < bad {
			outcome = "failure"
		}
		lines = append(lines, fmt.Sprintf(`{"event_type":%q,"user_id":"ann","metadata":{"outcome":%q}}`, eventType, outcome))
	}
	return lines
}

// TestHealth lets events fail, and compares the answer with the recorded series and with what usagectl prints.
func TestHealth(t *testing.T) {
	t.Parallel()
	d := newInstance(t, prometheusFile(t, secondly), fastRules(t, "health.yml"))
	d.start()
	d.healthBecomes("a fresh daemon", unknownFor("start"))
	if got := d.usagectl("health"); got.code != 1 || !strings.HasPrefix(got.stdout, "unknown, score –, since ") || got.stderr != "" {
		t.Errorf("usagectl health: exit code %d, %s%s; want 1 and unknown", got.code, got.stdout, got.stderr)
	}
	d.post(outcomes("a", 10, 0)...)
	d.becomes(`sum(usage:timely_event_outcomes:total{event_type="a"})`, "10") // so that there is a sample before the next
	d.post(outcomes("a", 20, 0)...)
	d.healthBecomes("nothing fails", func(h *subject) bool { return h.Mode == "unjudged" && *h.Score == 100 })
	if got := d.usagectl("health"); got.code != 1 || !strings.HasPrefix(got.stdout, "unjudged, score 100.0, since ") {
		t.Errorf("usagectl health: exit code %d, %s%s; want 1 and unjudged", got.code, got.stdout, got.stderr)
	}
	d.post(outcomes("a", 0, 30)...)
	h := d.healthBecomes("many fail", func(h *subject) bool { return h.Score != nil && *h.Score < 50 })
	failures := h.Components["failures"]
	if *failures.Value != 0 || !strings.Contains(failures.Text, " events that say how they ended") || h.Types["a"].Score == nil {
		t.Errorf("%+v", h)
	}
	d.becomes(fmt.Sprintf("usage:health:score @ %.3f == %v", float64(h.EvaluatedAt.UnixMilli())/1000, *h.Score), fmt.Sprint(*h.Score))

	eventually(t, "304", func() error { // the rules are evaluated every second
		first := d.do(http.MethodGet, healthPath, "admin", nil, nil)
		again := d.do(http.MethodGet, healthPath, "admin", map[string]string{"If-None-Match": first.header.Get("ETag")}, nil)
		if again.status != http.StatusNotModified {
			return fmt.Errorf("status %d", again.status)
		}
		return nil
	})
}

// TestHealthOfAnImport imports what failed yesterday. Today nothing has.
func TestHealthOfAnImport(t *testing.T) {
	t.Parallel()
	d := newInstance(t, prometheusFile(t, secondly), fastRules(t, "health.yml"))
	d.start()
	d.post(outcomes("sql_generation", 10, 0)...)
	d.becomes(`sum(usage:timely_event_outcomes:total{event_type="sql_generation"})`, "10") // so that there is a sample before the next
	d.post(outcomes("sql_generation", 20, 0)...)
	good := func(h *subject) bool {
		return h.Mode == "unjudged" && *h.Score == 100 && strings.HasPrefix(h.Components["failures"].Text, "No failures among ")
	}
	d.healthBecomes("nothing fails", good)
	var lines []string
	for range 1000 {
		lines = append(lines, fmt.Sprintf(`{"event_type":"sql_generation","user_id":"ann","created_at":%q,"metadata":{"outcome":"failure","policy_filters":"pii,names"}}`,
			time.Now().AddDate(0, 0, -1).UTC().Format(time.RFC3339)))
	}
	d.post(lines...)
	d.becomes(`usage_late_event_outcomes_total{event_type="sql_generation",outcome="failure"}`, "1000")
	d.becomes(`usage_late_policy_hits_total`, "2000")
	imported := time.Now()
	h := d.healthBecomes("an evaluation", func(h *subject) bool { return h.EvaluatedAt.After(imported.Add(time.Second)) })
	if !good(h) {
		t.Errorf("%s, score %v: %s", h.Mode, *h.Score, h.Text)
	}
	d.becomes(`usage_event_outcomes_total{event_type="sql_generation",outcome="failure"}`, "1000")
}

// TestQuiet plans and ends quiet times by calendar and command, and looks at the score.
func TestQuiet(t *testing.T) {
	t.Parallel()
	calendar := filepath.Join(t.TempDir(), "quiet.yml")
	write := func(text string) { rewriteFile(t, calendar, text) }
	write("weekly:\n- from: 25:00\n  until: 26:00\n")
	flag := "--quiet.file=" + calendar
	checkRefusedFile(t, flag, calendar+`:2: from: "25:00" is no time of day, as 18:30`)
	write("weekly: []\n")
	d := newInstance(t, flag, prometheusFile(t, secondly), fastRules(t, "health.yml"))
	d.start()
	d.healthBecomes("before", unknownFor("start"))

	write("weekly: [{from: 00:00, until: 24:00, reason: always}]\n")
	d.signal(syscall.SIGHUP)
	h := d.healthBecomes("a quiet time of the calendar", unknownFor("quiet"))
	if !strings.Contains(h.Text, "planned quiet time") {
		t.Errorf("the reason is: %s", h.Text)
	}
	write("weekly: [{from: noon}]\n")
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusInternalServerError || !strings.Contains(string(a.body), "quiet.yml:1: ") {
		t.Errorf("reload of a wrong calendar: status %d, %s; want 500, the file and the line", a.status, a.body)
	}
	d.becomes(`usaged_quiet{event_type="__all__"}`, "1")
	write("")
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
		t.Errorf("reload of an empty calendar: status %d, %s", a.status, a.body)
	}
	d.becomes(`usaged_quiet{event_type="__all__"}`, "0")

	if got := d.usagectl("quiet", "--until=2h", "--type=sql_generation", "--reason=the model moves"); got.code != 0 || !strings.Contains(got.stdout, "the model moves") {
		t.Errorf("usagectl quiet: exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	d.becomes(`usaged_quiet{event_type="sql_generation"}`, "1")
	d.kill() // what was planned is durable
	d.start()
	if got := d.usagectl("quiet", "list"); got.code != 0 || !strings.Contains(got.stdout, "\n1   ") {
		t.Errorf("usagectl quiet list: exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	if got := d.usagectl("quiet", "end", "1", "7"); got.code != 1 || got.stdout != "ended 1\n" || !strings.Contains(got.stderr, "no present or future quiet time has this id") {
		t.Errorf("usagectl quiet end: exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	if got := d.usagectl("quiet", "list"); got.stdout != "no quiet time is planned\n" {
		t.Errorf("usagectl quiet list: %s%s", got.stdout, got.stderr)
	}
	for _, args := range [][]string{{"quiet"}, {"quiet", "--until=soon"}, {"quiet", "--until=2h", "--from=then"}} {
		if got := d.usagectl(args...); got.code != 2 {
			t.Errorf("usagectl %v: exit code %d, want 2", args, got.code)
		}
	}
	if a := d.do(http.MethodPost, quietPath, "viewer", nil, []byte(`{"until":"2030-01-01T00:00:00Z"}`)); a.status != http.StatusForbidden {
		t.Errorf("a quiet time of a viewer: status %d, want 403", a.status)
	}
}

// TestHealthIsOff does without Prometheus, and names one that is not there.
func TestHealthIsOff(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--prometheus.enabled=false")
	d.start()
	a := d.do(http.MethodGet, healthPath, "admin", nil, nil)
	if a.status != http.StatusNotFound || !strings.Contains(string(a.body), `"code":"health_off"`) || !strings.Contains(string(a.body), "--health.prometheus-url") {
		t.Errorf("status %d, %s; want 404, health_off and what to do", a.status, a.body)
	}
	d.stop()
	d.args = append(d.args, "--health.prometheus-url=http://user:hunter2@127.0.0.1:1")
	d.start()
	a = d.do(http.MethodGet, healthPath, "admin", nil, nil)
	if a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), `"code":"health_unavailable"`) || a.header.Get("Retry-After") == "" {
		t.Errorf("status %d, %s; want 503, health_unavailable and when to try again", a.status, a.body)
	}
	eventually(t, "the cause in the log", func() error {
		if !strings.Contains(d.log.String(), "connection refused") {
			return errors.New("it is not there")
		}
		return nil
	})
	if strings.Contains(string(a.body)+d.log.String(), "hunter2") {
		t.Errorf("%s or the log has the password", a.body)
	}
	for _, tc := range []struct{ flags, want string }{
		{"--health.prometheus-url=localhost:9090", "--health.prometheus-url: must be http://host"},
		{"--health.http-config-file=x.yml", "--health.http-config-file: it is about --health.prometheus-url"},
		{"--health.prometheus-url=http://x --health.http-config-file=none.yml", "--health.http-config-file: "},
	} {
		got := runDaemon(t, cleanEnv(), append(strings.Fields(tc.flags), "--check-config", "--data.dir="+t.TempDir())...)
		if got.code == 0 || !strings.Contains(got.stderr, tc.want) {
			t.Errorf("%s: exit code %d, %s; want %s", tc.flags, got.code, got.stderr, tc.want)
		}
	}
}

// viewerOf writes a --health.http-config-file with the viewer's token of a daemon.
func viewerOf(t *testing.T, d *instance) string {
	t.Helper()
	data, err := json.Marshal(map[string]any{"authorization": map[string]string{"credentials_file": filepath.Join(d.dir, "viewer.token")}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "http.yml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
