package exporter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"usaged/exporter"
)

// rollups are what gauges read.
type rollups struct {
	mu      sync.Mutex
	version string
	err     error
	asked   int
}

func (r *rollups) set(version string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version, r.err = version, err
}

func (r *rollups) count(_ context.Context, days int) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return 10 * days, r.err
}

func (r *rollups) versionOf(_ context.Context, days int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.version, days), r.err
}

func (r *rollups) gauges(retention int) *exporter.Gauges {
	return exporter.NewGauges(exporter.GaugesConfig{
		ActiveUsers: r.count,
		Version:     r.versionOf,
		Newest: func() map[string]time.Time {
			return map[string]time.Time{"chat": time.UnixMilli(1_500), "__other__": time.Unix(7, 0)}
		},
		Retention: retention,
		Log:       slog.New(slog.DiscardHandler),
	})
}

func wantActive(t *testing.T, g *exporter.Gauges, windows ...string) {
	t.Helper()
	text := ""
	if len(windows) > 0 {
		text = "# HELP usage_active_users Users with an event on one of the last days (UTC), today included, of all replicas on one store; counted every 15 seconds.\n# TYPE usage_active_users gauge\n"
	}
	for _, w := range windows {
		text += fmt.Sprintf("usage_active_users{window=\"%s\"} %s0\n", w, strings.TrimSuffix(w, "d"))
	}
	if err := testutil.CollectAndCompare(g, strings.NewReader(text), "usage_active_users"); err != nil {
		t.Error(err)
	}
}

// run runs the gauges in the bubble until stop.
func run(g *exporter.Gauges) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go g.Run(ctx)
	synctest.Wait()
	return func() { cancel(); synctest.Wait() }
}

func TestActiveUsersAreCountedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rollups{version: "a"}
		g := r.gauges(30)
		wantActive(t, g) // absent, not zero
		stop := run(g)
		defer stop()
		wantActive(t, g, "1d", "7d", "30d")
		time.Sleep(10 * time.Minute)
		wantActive(t, g, "1d", "7d", "30d")
		if r.asked != 3 {
			t.Errorf("asked %d times, want 3: nothing has changed", r.asked)
		}
		r.set("b", nil)
		time.Sleep(time.Minute)
		if synctest.Wait(); r.asked != 6 {
			t.Errorf("asked %d times after a change, want 6", r.asked)
		}
		r.set("b", errors.New("away"))
		time.Sleep(time.Minute)
		synctest.Wait()
		wantActive(t, g) // nobody knows
		r.set("b", nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		wantActive(t, g, "1d", "7d", "30d")
	})
}

func TestActiveUsersKeepToTheRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := (&rollups{}).gauges(7)
		stop := run(g)
		defer stop()
		wantActive(t, g, "1d", "7d")
	})
}

func TestLastEventsAreExported(t *testing.T) {
	g := (&rollups{}).gauges(30)
	if err := testutil.CollectAndCompare(g, strings.NewReader(`
# HELP usage_last_event_timestamp_seconds When the last event of a type was accepted by this replica, duplicates included: Unix time of the server.
# TYPE usage_last_event_timestamp_seconds gauge
usage_last_event_timestamp_seconds{event_type="__other__"} 7
usage_last_event_timestamp_seconds{event_type="chat"} 1.5
`), "usage_last_event_timestamp_seconds"); err != nil {
		t.Error(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(g)
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}
