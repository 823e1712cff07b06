package api_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"usaged/api"
	"usaged/rules/accept"
	"usaged/rules/health"
	"usaged/rules/quiet"
)

// healthOf is a HealthReader with one report.
type healthOf struct{ report *health.Report }

func (h healthOf) Report(context.Context) (*health.Report, error) { return h.report, nil }
func (h healthOf) Left(_ context.Context, eventType string) (float64, error) {
	if eventType != "sql_generation" {
		return 0, health.ErrNoDrop
	}
	return 0.6, nil
}
func (h healthOf) Source() string { return "the test" }

// drop is the report of a drop.
func drop() *health.Report {
	number := func(v float64) *float64 { return &v }
	activity := health.Component{
		Name: "activity", Weight: 0.4, Value: number(0.5086), Unit: "events", Window: "15m", Observed: number(412), Expected: number(960),
		Lower: number(810), Upper: number(1110), Text: "412 events in the last 15 minutes; 960 were expected (810 to 1,110), so this is too few.",
	}
	lag := health.Component{Name: "lag", Weight: 0.15, Value: number(1), Unit: "seconds", Observed: number(0.25), Text: "Fine."}
	policy := health.Component{Name: "policy", Weight: 0.15, Unit: "ratio", Window: "15m", Lower: number(0), Upper: number(0.01), Text: "None."}
	all := health.Subject{EventType: health.AllTypes, Score: number(77.95123456789), Mode: "watch", Since: noon.Add(-time.Hour), Text: "Lowered by activity."}
	all.Components = []health.Component{activity, lag, policy}
	odd := health.Subject{EventType: "say \"hi\"\n", Mode: health.Unknown, Reason: "weeks", Text: "Not yet."}
	odd.Components = []health.Component{{Name: "activity", Weight: 0.4, Unit: "events", Reason: "weeks", Text: "Not yet."}}
	return &health.Report{EvaluatedAt: noon.Add(-20 * time.Second), All: all, Types: []health.Subject{odd}}
}

// nobody is a querier without anything.
type nobody struct{ err error }

func (n nobody) Query(context.Context, string, time.Time) (model.Vector, error) { return nil, n.err }
func (n nobody) String() string                                                 { return "the Prometheus at http://nowhere" }

// newAccepted is a data directory in which nothing was accepted.
func newAccepted(t testing.TB) *accept.Normals {
	t.Helper()
	normals, err := accept.Open(accept.Config{Path: filepath.Join(t.TempDir(), "accepted.json"), Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	return normals
}

// newQuiet is a data directory with one quiet time.
func newQuiet(t testing.TB) *quiet.Times {
	t.Helper()
	times, err := quiet.Open(quiet.Config{Path: filepath.Join(t.TempDir(), "quiet.json"), Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := times.Add(quiet.Entry{Until: noon.Add(time.Hour), Reason: "the office moves"}); err != nil {
		t.Fatal(err)
	}
	return times
}

func fillQuiet(r *rig) {
	for len(r.cfg.Quiet.List()) < quiet.MaxEntries {
		if _, err := r.cfg.Quiet.Add(quiet.Entry{Until: noon.Add(time.Hour)}); err != nil {
			panic(err)
		}
	}
}

// TestHealthIsNotModified asks again before and after the next evaluation.
func TestHealthIsNotModified(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/usage/health"
	first := r.call("GET", path, "admin", "")
	again := r.call("GET", path, "admin", "", "If-None-Match", first.Header().Get("ETag"))
	if first.Code != http.StatusOK || again.Code != http.StatusNotModified || again.Body.Len() > 0 {
		t.Errorf("status %d, then %d with %d bytes; want 200, then 304 with none", first.Code, again.Code, again.Body.Len())
	}
	report := r.cfg.Health.(healthOf).report
	report.EvaluatedAt = report.EvaluatedAt.Add(time.Minute)
	if later := r.call("GET", path, "admin", "", "If-None-Match", first.Header().Get("ETag")); later.Code != http.StatusOK {
		t.Errorf("after another evaluation: status %d, want 200", later.Code)
	}
}

// flaky is a HealthReader that is away now and then.
type flaky struct {
	healthOf
	err error
}

func (f *flaky) Report(context.Context) (*health.Report, error) { return f.report, f.err }

// TestHealthIsLoggedOnce polls while nobody answers, twice.
func TestHealthIsLoggedOnce(t *testing.T) {
	t.Parallel()
	reader := &flaky{healthOf: healthOf{drop()}}
	r := newRig(t, func(cfg *api.Config) { cfg.Health = reader })
	poll := func(want int) {
		t.Helper()
		for range 3 {
			if got := r.call("GET", "/api/v1/usage/health", "admin", ""); got.Code != want {
				t.Errorf("status %d, want %d: %s", got.Code, want, got.Body)
			}
		}
	}
	for outages := range 2 {
		reader.err = errors.New("it is away")
		poll(http.StatusServiceUnavailable)
		if n := strings.Count(r.log.String(), "it is away"); n != outages+1 {
			t.Errorf("the cause is in the log %d times after %d outages", n, outages+1)
		}
		reader.err = nil
		poll(http.StatusOK)
	}
}
