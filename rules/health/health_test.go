package health_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/model"

	"usaged/rules/health"
)

var evaluated = time.Date(2026, 11, 23, 12, 0, 26, 123e6, time.UTC)

// recorded is a querier with the samples of one evaluation. Each is written as its name, its labels and its value.
type recorded struct {
	mu      sync.Mutex
	at      time.Time
	samples []string
	err     error
	queries int
}

func (r *recorded) String() string { return "the Prometheus of the test" }

func (r *recorded) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queries
}

// evaluate has the rules evaluated so much later; err is what queries get from then on.
func (r *recorded) evaluate(later time.Duration, err error) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.err = r.at.Add(later), err
	return r.at
}

func (r *recorded) Query(_ context.Context, expr string, at time.Time) (model.Vector, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queries++
	if r.err != nil {
		return nil, r.err
	}
	if expr == "max(usage:health:evaluated)" {
		if r.at.IsZero() {
			return nil, nil
		}
		return model.Vector{{Value: model.SampleValue(float64(r.at.UnixMilli()) / 1000)}}, nil
	}
	if !at.Equal(r.at) {
		return nil, fmt.Errorf("asked for %s, want the time of the evaluation", at)
	}
	var vector model.Vector
	for _, text := range r.samples {
		vector = append(vector, sample(text))
	}
	return vector, nil
}

// sample reads "name label=value … number".
func sample(text string) *model.Sample {
	fields := strings.Fields(text)
	s := &model.Sample{Metric: model.Metric{"__name__": model.LabelValue(fields[0])}}
	for _, field := range fields[1 : len(fields)-1] {
		name, value, _ := strings.Cut(field, "=")
		s.Metric[model.LabelName(name)] = model.LabelValue(value)
	}
	if _, err := fmt.Sscan(fields[len(fields)-1], &s.Value); err != nil {
		panic(err)
	}
	return s
}

// settings are what is recorded always.
var settings = []string{
	"usage:health:weight component=activity 0.4", "usage:health:weight component=failures 0.3",
	"usage:health:weight component=lag 0.15", "usage:health:weight component=policy 0.15",
	"usage:health:good event_type=__all__ component=failures 0.01", "usage:health:good event_type=a component=failures 0.01",
	"usage:health:good event_type=__all__ component=lag 60",
	"usage:activity:weeks 2",
	"usage:health:scope event_type=__all__ 1", "usage:health:scope event_type=b 1", "usage:health:scope event_type=a 1",
}

func report(t *testing.T, samples ...string) *health.Report {
	t.Helper()
	r, err := health.NewReader(&recorded{at: evaluated, samples: append(slices.Clone(settings), samples...)}).Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func component(t *testing.T, s *health.Subject, name string) health.Component {
	t.Helper()
	i := slices.IndexFunc(s.Components, func(c health.Component) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("%s has no component %s", s.EventType, name)
	}
	return s.Components[i]
}

// TestReport tells a drop of one type.
func TestReport(t *testing.T) {
	t.Parallel()
	r := report(t,
		"usage:health:type_score event_type=__all__ 77.951234567891", "usage:health:type_mode event_type=__all__ 1",
		"usage:health:since event_type=__all__ 1795777826.123",
		"usage:health:type_score event_type=a 60", "usage:health:type_mode event_type=a 2",
		"usage:health:unknown event_type=b reason=weeks 1", "usage:activity:unknown event_type=b reason=weeks 1",
		"usage:activity:window event_type=a window=15m 1", "usage:activity:window event_type=__all__ window=15m 1", "usage:activity:judged event_type=a 1",
		"usage:activity:dropped event_type=a 0.571", "usage:health:major event_type=a 0.2",
		"usage:health:component event_type=__all__ component=activity 0.7", "usage:health:component event_type=a component=activity 0.5086",
		"usage:health:component event_type=__all__ component=lag 0.5",
		"usage:activity:observed event_type=a window=15m 411.6", "usage:activity:observed event_type=a window=1h 2000",
		"usage:activity:expected event_type=a window=15m 960", "usage:activity:lower event_type=a window=15m 809.7", "usage:activity:upper event_type=a window=15m 1110.2",
		"usage:activity:observed event_type=__all__ window=15m 8100", "usage:activity:expected event_type=__all__ window=15m 9000",
		"usage:activity:lower event_type=__all__ window=15m 9000", "usage:activity:upper event_type=__all__ window=15m 12000",
		"usage:health:observed event_type=__all__ component=lag 480", "usage:health:observed event_type=__all__ component=failures 0.0255",
		"usage:health:component event_type=__all__ component=failures 0.83",
		"usage:failures:increase15m event_type=a 12", "usage:outcomes:increase15m event_type=a 1479.8",
	)
	if !r.EvaluatedAt.Equal(evaluated) {
		t.Errorf("evaluated at %s, want %s", r.EvaluatedAt, evaluated)
	}
	if r.All.Mode != "watch" || r.All.Score == nil || *r.All.Score != 77.951234567891 || !r.All.Since.Equal(time.UnixMilli(1795777826123)) {
		t.Errorf("all: %s, %v since %s; want the recorded numbers as they are", r.All.Mode, *r.All.Score, r.All.Since)
	}
	if len(r.Types) != 2 || r.Types[0].EventType != "a" || r.Types[1].EventType != "b" {
		t.Fatalf("types %v, want a and b", r.Types)
	}
	a := component(t, &r.Types[0], "activity")
	if *a.Observed != 411.6 || *a.Expected != 960 || *a.Lower != 809.7 || *a.Upper != 1110.2 || a.Window != "15m" || a.Weight != 0.4 || *a.Value != 0.5086 {
		t.Errorf("activity of a: %+v", a)
	}
	for _, tc := range []struct{ what, got, want string }{
		{"a", a.Text, "412 events in the last 15 minutes; 960 were expected (810 to 1,110), so 57.1% are missing."},
		{"all", component(t, &r.All, "activity").Text, "8,100 events in the last 15 minutes; 9,000 were expected (9,000 to 12,000). Of the types, a has 50.9% of what would be no drop."},
		{"failures", component(t, &r.All, "failures").Text, "Failures in the last 15 minutes: 12 of 1,480 events that say how they ended. With fifty usual events added that is 2.55%; up to 1% is usual."},
		{"lag", component(t, &r.All, "lag").Text, "The oldest event that is not counted yet was accepted 480 seconds ago; up to 60 is usual."},
		{"policy", component(t, &r.All, "policy").Text, "Policy hits are not judged: there are none, fewer than 20 events came in the last hour, or fewer than two days are known."},
		{"the score of a", r.Types[0].Text, "Lowered by activity: " + a.Text},
		{"b", r.Types[1].Text, "The same hour is known of fewer than 2 of the past four weeks."},
		{"the activity of b", component(t, &r.Types[1], "activity").Reason, "weeks"},
		{"the mode of b", r.Types[1].Mode, health.Unknown},
	} {
		if tc.got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", tc.what, tc.got, tc.want)
		}
	}
	if slices.ContainsFunc(r.Types[0].Components, func(c health.Component) bool { return c.Name == "policy" }) {
		t.Error("a type has a component policy, which the rules have of all types alone")
	}
}

// TestActivityTexts has what activity may look like.
func TestActivityTexts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		samples []string
		want    string
	}{
		{"it is usual", []string{"15m 1", "observed 15m 1", "expected 15m 2.25", "lower 15m 0", "upper 15m 7.54"},
			"1 event in the last 15 minutes; 2.3 were expected (0 to 7.5)."},
		{"it is an estimate", []string{"15m 1", "observed 15m 4.2", "expected 15m 4.2"}, "4 events in the last 15 minutes; 4.2 were expected."},
		{"it is more", []string{"1h 1", "observed 1h 1234567", "expected 1h 10", "lower 1h 1", "upper 1h 20"},
			"1,234,567 events in the last hour; 10 were expected (1 to 20)."},
		{"nothing is expected", nil, "Nothing is expected at this time."},
		{"it is judged by another window", []string{"2h 1", "observed 2h 9", "expected 2h 9"}, "9 events in the last 2h; 9 were expected."},
	} {
		samples := []string{"usage:health:component event_type=a component=activity 1", "usage:health:type_score event_type=a 100", "usage:health:type_mode event_type=a 0"}
		for _, text := range tc.samples {
			fields := strings.Fields(text)
			name := "usage:activity:window"
			if len(fields) == 3 {
				name = "usage:activity:" + fields[0]
			}
			samples = append(samples, fmt.Sprintf("%s event_type=a window=%s %s", name, fields[len(fields)-2], fields[len(fields)-1]))
		}
		r := report(t, samples...)
		if got := component(t, &r.Types[0], "activity").Text; got != tc.want {
			t.Errorf("%s: %s\nwant %s", tc.name, got, tc.want)
		}
		if r.Types[0].Text != "All is as usual." {
			t.Errorf("%s: %s", tc.name, r.Types[0].Text)
		}
	}
}

// TestNothingKnownOfActivity holds that a score without activity is not taken for one with it, unless activity counts for nothing.
func TestNothingKnownOfActivity(t *testing.T) {
	t.Parallel()
	for weight, want := range map[string]string{"0.4": "Activity is not judged now. All else is as usual.", "0": "All is as usual."} {
		samples := append([]string{"usage:health:weight component=activity " + weight, "usage:activity:unknown event_type=a reason=start 1",
			"usage:health:type_score event_type=a 100", "usage:health:type_mode event_type=a " + map[string]string{"0.4": "-1", "0": "0"}[weight]}, settings...) // the first weight counts
		r, err := health.NewReader(&recorded{at: evaluated, samples: samples}).Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Types[0].Text; got != want {
			t.Errorf("weight %s: %s\nwant %s", weight, got, want)
		}
	}
}

// TestFailureTexts has how many events may have failed: an increase is an estimate, and need not be whole.
func TestFailureTexts(t *testing.T) {
	t.Parallel()
	for failed, want := range map[string]string{
		"0":   "No failures among the last 15 minutes' events that say how they ended (41).",
		"1.1": "Failures in the last 15 minutes: 1 of 41 events that say how they ended. With fifty usual events added that is 1.73%; up to 1% is usual.",
	} {
		r := report(t, "usage:health:observed event_type=a component=failures 0.0173",
			"usage:failures:increase15m event_type=a "+failed, "usage:outcomes:increase15m event_type=a 41")
		if got := component(t, &r.Types[0], "failures").Text; got != want {
			t.Errorf("%s failed: %s\nwant %s", failed, got, want)
		}
	}
}

// TestModeBehindScore holds that a score which its mode does not fit yet says so.
func TestModeBehindScore(t *testing.T) {
	t.Parallel()
	for score, want := range map[string]string{
		"89.9": "Lowered by failures: No event of the last 15 minutes said how it ended. The mode gets worse when that has lasted for five minutes.",
		"90":   "Lowered by failures: No event of the last 15 minutes said how it ended.",
	} {
		r := report(t, "usage:health:mode_threshold mode=normal 90", "usage:health:mode_threshold mode=watch 75",
			"usage:health:type_score event_type=a "+score, "usage:health:type_mode event_type=a 0",
			"usage:health:component event_type=a component=activity 1", "usage:health:component event_type=a component=failures 0.7")
		if got := r.Types[0].Text; got != want {
			t.Errorf("score %s: %s\nwant %s", score, got, want)
		}
	}
}

// TestReasons holds that every reason of the rules has words.
func TestReasons(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile("../health.yml")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(rules)) {
		_, rest, found := strings.Cut(line, "labels: {reason: ")
		if !found {
			continue
		}
		reason := strings.TrimRight(strings.FieldsFunc(rest, func(r rune) bool { return r == ',' || r == '}' })[0], "\n")
		r := report(t, "usage:health:unknown event_type=__all__ reason="+reason+" 1")
		if r.All.Reason != reason || r.All.Mode != health.Unknown || r.All.Score != nil || strings.Contains(r.All.Text, "The rules") {
			t.Errorf("%s: mode %s, reason %s: %s", reason, r.All.Mode, r.All.Reason, r.All.Text)
		}
		seen++
	}
	if seen < 7 {
		t.Errorf("%d reasons in the rules, want 7 at least", seen)
	}
	if r := report(t, "usage:health:unknown event_type=__all__ reason=mine 1"); r.All.Text != "The rules say: mine." {
		t.Errorf("a reason of the operator's: %s", r.All.Text)
	}
}

// TestCopiesOfReplicas has what replicas sent to the Prometheus which evaluates the rules too.
func TestCopiesOfReplicas(t *testing.T) {
	t.Parallel()
	for _, copies := range [][]string{{"replica=x 10", "20", "replica=y 30"}, {"20", "replica=x 10"}} {
		samples := []string{"usage:health:type_mode event_type=a 3"}
		for _, c := range copies {
			samples = append(samples, "usage:health:type_score event_type=a "+c)
		}
		if r := report(t, samples...); *r.Types[0].Score != 20 {
			t.Errorf("%v: the score is %v, want its own, 20", copies, *r.Types[0].Score)
		}
	}
}

// TestNotAllEvaluated is the first moment after a start: the groups of rules are evaluated one by one.
func TestNotAllEvaluated(t *testing.T) {
	t.Parallel()
	q := &recorded{at: evaluated, samples: []string{"usage:health:scope event_type=a 1"}}
	r := health.NewReader(q)
	if got, err := r.Report(t.Context()); err != nil || got.All.Reason != health.NotEvaluated {
		t.Errorf("without the settings: %v, %v; want %s", got, err, health.NotEvaluated)
	}
	q.samples = append(q.samples, settings...)
	if got, err := r.Report(t.Context()); err != nil || got.All.Reason == health.NotEvaluated {
		t.Errorf("with the settings: %v, %v; want what was recorded", got, err)
	}
}

// TestReportIsReadOnce asks often and looks how often the querier is.
func TestReportIsReadOnce(t *testing.T) {
	t.Parallel()
	q := &recorded{at: evaluated, samples: settings}
	r := health.NewReader(q)
	var last *health.Report
	for range 12 {
		got, err := r.Report(t.Context())
		if err != nil || last != nil && got != last {
			t.Fatalf("%v, %v; want one report", got, err)
		}
		last = got
	}
	if q.queries != 13 {
		t.Errorf("%d queries for 12 reports of one evaluation, want 13", q.queries)
	}
	q.at = q.at.Add(time.Minute)
	if got, err := r.Report(t.Context()); err != nil || got == last || !got.EvaluatedAt.Equal(q.at) {
		t.Errorf("after another evaluation: %v, %v", got, err)
	}
	q.at = time.Time{}
	if got, err := r.Report(t.Context()); err != nil || got.All.Reason != health.NotEvaluated || !strings.Contains(got.All.Text, "the Prometheus of the test") {
		t.Errorf("where no rules are evaluated: %v, %v", got, err)
	}
	q.err = health.ErrNotOpen
	if got, err := r.Report(t.Context()); err != nil || got.All.Reason != health.NotEvaluated || !strings.Contains(got.All.Text, "the Prometheus of the test is not open") {
		t.Errorf("where it is not open yet: %v, %v", got, err)
	}
	q.err = errors.New("it is away")
	if _, err := r.Report(t.Context()); !errors.Is(err, q.err) {
		t.Errorf("where nobody answers: %v", err)
	}
}

// TestRunKeepsAReport asks every five seconds beside Run, then no more, then again while nobody answers.
func TestRunKeepsAReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := &recorded{at: evaluated, samples: settings}
		r := health.NewReader(q)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go r.Run(ctx)
		ask := func() (*health.Report, error) {
			t.Helper()
			synctest.Wait()
			before := q.asked()
			report, err := r.Report(ctx)
			if err == nil && q.asked() != before {
				t.Errorf("a question took %d queries", q.asked()-before)
			}
			return report, err
		}
		time.Sleep(time.Minute)
		if n := q.asked(); n != 0 {
			t.Errorf("%d queries before anybody asked", n)
		}
		if _, err := r.Report(ctx); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			time.Sleep(5 * time.Second)
			at := q.evaluate(5*time.Second, nil)
			time.Sleep(1500 * time.Millisecond)
			if report, err := ask(); err != nil || !report.EvaluatedAt.Equal(at) {
				t.Fatalf("%v, %v; want the report of %s", report, err, at)
			}
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		queries := q.asked()
		time.Sleep(time.Hour)
		if n := q.asked() - queries; n != 0 {
			t.Errorf("%d queries when nobody asks any more", n)
		}
		away := errors.New("it is away")
		q.evaluate(0, away)
		if _, err := ask(); !errors.Is(err, away) {
			t.Errorf("%v, want that it is away", err)
		}
	})
}

// silent is a querier that never answers.
type silent struct{}

func (silent) String() string { return "nobody" }

func (silent) Query(ctx context.Context, _ string, _ time.Time) (model.Vector, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestReportIsBounded has several that ask somebody who never answers.
func TestReportIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := health.NewReader(silent{})
		began := time.Now()
		done := make(chan error)
		for range 3 {
			go func() {
				_, err := r.Report(t.Context())
				done <- err
			}()
		}
		for range 3 {
			if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want that the time is over", err)
			}
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %s, want 5s for all of them", took)
		}
	})
}

// TestCentral asks over HTTP, with a token from a file.
func TestCentral(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	answer, status := "", 0
	answers := func(code int, text string) {
		mu.Lock()
		defer mu.Unlock()
		answer, status = text, code
	}
	answers(http.StatusOK, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2"]}]}}`)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/prometheus/api/v1/query" || r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Scope-OrgID") != "platform" {
			t.Errorf("%s %s with %v", r.Method, r.URL, r.Header)
		}
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer server.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("viewer.token", "secret")
	file := write("http.yml", "authorization: {credentials_file: viewer.token}\nhttp_headers: {X-Scope-OrgID: {values: [platform]}}\n")
	c, err := health.OpenCentral(server.URL+"/prometheus/", file)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Query(t.Context(), "up", time.Time{}); err != nil || len(got) != 1 || got[0].Value != 2 {
		t.Errorf("%v, %v; want 2", got, err)
	}
	answers(http.StatusOK, `{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}`)
	if _, err := c.Query(t.Context(), "1", time.Time{}); err == nil || !strings.Contains(err.Error(), "is a scalar") {
		t.Errorf("a scalar: %v", err)
	}
	answers(http.StatusUnauthorized, "no")
	if _, err := health.NewReader(c).Report(t.Context()); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("401: %v", err)
	}
	for _, tc := range []struct{ address, file, want string }{
		{"localhost:9090", "", "must be http://host"},
		{"http://user:hunter2@%zz", "", "must be http://host"},
		{"http://x", filepath.Join(dir, "none.yml"), "no such file"},
		{"http://x", write("wrong.yml", "bearer: x\n"), "line 1: field bearer not found"},
	} {
		if _, err := health.OpenCentral(tc.address, tc.file); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s, %s: %v, want %s", tc.address, tc.file, err, tc.want)
		}
	}
	if c, err := health.OpenCentral("http://user:hunter2@x", ""); err != nil || strings.Contains(c.String(), "hunter2") {
		t.Errorf("%v, %v: want a name without the password", c, err)
	}
}
