package exporter_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/exporter"
)

// levels is a log that tells the level of each line.
type levels struct {
	slog.Handler
	lines chan slog.Level
}

func newLevels() *levels { return &levels{slog.DiscardHandler, make(chan slog.Level, 10)} }

func (l *levels) Enabled(context.Context, slog.Level) bool { return true }
func (l *levels) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *levels) Handle(_ context.Context, r slog.Record) error {
	l.lines <- r.Level
	return nil
}

// slow is a collector whose scrape lasts until it is told to end.
type slow struct{ begun, end chan struct{} }

func (s slow) Describe(chan<- *prometheus.Desc) {}
func (s slow) Collect(out chan<- prometheus.Metric) {
	close(s.begun)
	<-s.end
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc("late", "Late.", nil, nil), prometheus.GaugeValue, 1)
}

func TestScraperHangsUp(t *testing.T) {
	t.Parallel()
	registry, log, collector := prometheus.NewRegistry(), newLevels(), slow{make(chan struct{}), make(chan struct{})}
	registry.MustRegister(collector)
	handler := exporter.NewHandler(registry, slog.New(log))
	answered := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		close(answered)
	}))
	defer server.Close()

	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		<-collector.begun
		hangUp()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := server.Client().Do(req); !errors.Is(err, context.Canceled) {
		t.Fatalf("the scrape ended with %v, %v", resp, err)
	}
	<-answered // the server has seen it
	close(collector.end)
	if level := <-log.lines; level != slog.LevelDebug {
		t.Errorf("a scraper that hangs up is logged at %s", level)
	}
}

// broken is a collector that fails.
type broken struct{}

func (broken) Describe(chan<- *prometheus.Desc) {}
func (broken) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "Broken.", nil, nil), errors.New("out of order"))
}

func TestScrapeFails(t *testing.T) {
	t.Parallel()
	registry, log := prometheus.NewRegistry(), newLevels()
	registry.MustRegister(broken{})
	rec := httptest.NewRecorder()
	exporter.NewHandler(registry, slog.New(log)).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	if rec.Code != http.StatusInternalServerError {
		t.Errorf("status %d, want 500", rec.Code)
	}
	if level := <-log.lines; level != slog.LevelError {
		t.Errorf("a collector that fails is logged at %s", level)
	}
}
