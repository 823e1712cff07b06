package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPastOfAnother writes the past of a daemon, and of two added up, into files, makes blocks of them with promtool, and compares
// what a real Prometheus answers.
func TestPastOfAnother(t *testing.T) {
	t.Parallel()
	p := newPrometheus(t, modulePrometheus, "global: {}\n", "--storage.tsdb.retention.time=100d")
	var daemons []*instance
	for i := range 2 {
		d := newInstance(t)
		d.start()
		if r := d.usagectl("simulate", "--days=30", "--events-per-day=300", fmt.Sprintf("--seed=%d", i+1)); r.code != 0 {
			t.Fatal(r.stderr)
		}
		d.post(fmt.Sprintf(`{"event_type":"say \"hi\\n\" ü","user_id":"ann","created_at":%q}`, time.Now().AddDate(0, 0, -9).UTC().Format(time.RFC3339)))
		daemons = append(daemons, d)
	}
	alike(t, daemons[1], daemons[0])

	file := filepath.Join(t.TempDir(), "past.txt")
	until := time.Now().Add(-2 * time.Hour).UTC().Truncate(time.Minute)
	export := func(args ...string) {
		t.Helper()
		r := daemons[0].usagectl(append(args, "backfill", "--openmetrics="+file, "--until="+until.Format(time.RFC3339))...)
		if r.code != 0 || !strings.Contains(r.stdout, " up to "+until.Truncate(5*time.Minute).Format(time.RFC3339)+" into "+file) {
			t.Fatalf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
		}
	}
	export()
	p.load(file)
	for _, metric := range []string{"usage:activity:observed", "usage:activity:expected", "usage:activity:excess"} {
		want := selected(t, daemons[0].try, metric, until)
		if got := selected(t, viewerless(p.get), metric, until); !maps.EqualFunc(got, want, slices.Equal) || len(want) == 0 {
			t.Errorf("%s: %d series of a daemon, and others, %d, of what was written", metric, len(want), len(got))
		}
	}
	export("--url="+daemons[0].url, "--url="+daemons[1].url, daemons[0].adminToken())
	p.load(file)
	sum := `usage:activity:observed{event_type="__all__",window="1d"} @ ` + fmt.Sprint(until.AddDate(0, 0, -3).Unix()/300*300)
	total := 0.0
	for _, d := range daemons {
		total += number(t, d.mustPromQL(sum)[0])
	}
	if got, err := p.value(sum); err != nil || got != total || total == 0 {
		t.Errorf("two daemons had %v in a day, the file has %v, %v", total, got, err)
	}
	if got, err := p.value("count_over_time(usage:activity:excess[8d])"); err == nil {
		t.Errorf("what does not add up was written, %v", got)
	}
}

// alike gives a daemon the tokens of another.
func alike(t *testing.T, d, other *instance) {
	t.Helper()
	take := func(name string) {
		if err := os.WriteFile(filepath.Join(d.dir, name), must(os.ReadFile(filepath.Join(other.dir, name))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	take("tokens.yml")
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
		t.Fatalf("reload: status %d: %s", a.status, a.body)
	}
	take("admin.token")
	take("viewer.token")
}

// load has promtool make blocks of a file, which take the place of all that it has, and starts it with them.
func (p *realPrometheus) load(file string) {
	p.tb.Helper()
	if p.run != nil {
		p.stop()
	}
	if err := os.RemoveAll(p.tsdb()); err != nil {
		p.tb.Fatal(err)
	}
	promtool := filepath.Join(filepath.Dir(p.program), "promtool")
	out, err := exec.Command(promtool, "tsdb", "create-blocks-from", "--max-block-duration=54h", "openmetrics", "--quiet", file, p.tsdb()).CombinedOutput()
	if err != nil {
		p.tb.Fatalf("promtool: %v: %s", err, out)
	}
	p.start()
}

func viewerless(get func(string) ([]byte, error)) func(path, role string) ([]byte, error) {
	return func(path, _ string) ([]byte, error) { return get(strings.TrimPrefix(path, "/prometheus")) }
}

// selected returns the samples of a metric up to a time, by series.
func selected(t *testing.T, get func(path, role string) ([]byte, error), metric string, until time.Time) map[string][]string {
	t.Helper()
	samples := map[string][]string{}
	body, err := get(fmt.Sprintf("%squery?query=%s%%5B31d%%5D&time=%d", prometheusPath, metric, until.Unix()), "viewer")
	var answer struct{ Data struct{ Result []promSeries } }
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range answer.Data.Result {
		for _, v := range s.Values {
			samples[canonical(s.Metric)] = append(samples[canonical(s.Metric)], fmt.Sprint(v))
		}
	}
	return samples
}
