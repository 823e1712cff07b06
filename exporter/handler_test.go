package exporter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

func newHandler(t *testing.T, registry *prometheus.Registry, log *slog.Logger) *exporter.Handler {
	t.Helper()
	h, err := exporter.NewHandler(registry, log)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestScraperHangsUp(t *testing.T) {
	t.Parallel()
	registry, log, collector := prometheus.NewRegistry(), newLevels(), slow{make(chan struct{}), make(chan struct{})}
	registry.MustRegister(collector)
	handler := newHandler(t, registry, slog.New(log))
	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		<-collector.begun
		hangUp()
	}()
	handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody).WithContext(ctx)) // it ends before the collector
	close(collector.end)
	if level := <-log.lines; level != slog.LevelDebug {
		t.Errorf("a scraper that hangs up is logged at %s", level)
	}
}

// scrape asks a handler.
func scrape(handler http.Handler, query, accept string) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/metrics"+query, http.NoBody)
	req.Header.Set("Accept", accept)
	handler.ServeHTTP(rec, req)
	return rec
}

// TestAFloodOfScrapes has many more scrapers than may wait. The metrics are collected once, and all who waited get them.
func TestAFloodOfScrapes(t *testing.T) {
	t.Parallel()
	registry, collector := prometheus.NewRegistry(), slow{make(chan struct{}), make(chan struct{})} // begins once, or panics
	registry.MustRegister(collector)
	handler := newHandler(t, registry, slog.New(slog.DiscardHandler))
	const scrapers = 500
	answers := make(chan *httptest.ResponseRecorder, scrapers)
	for range scrapers {
		go func() { answers <- scrape(handler, "", "") }()
	}
	<-collector.begun
	rejected := 0
	for range scrapers - 50 { // the others wait until the collector ends
		if rec := <-answers; rec.Code == http.StatusServiceUnavailable && rec.Header().Get("Retry-After") != "" {
			rejected++
		}
	}
	close(collector.end)
	for range 50 {
		if rec := <-answers; rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), "late 1") {
			t.Errorf("one who waited got status %d", rec.Code)
		}
	}
	if rejected != scrapers-50 {
		t.Errorf("%d got 503 with Retry-After, want %d", rejected, scrapers-50)
	}
}

// counting is a collector that counts how often it was asked.
type counting struct{ asked *atomic.Int64 }

func (counting) Describe(chan<- *prometheus.Desc) {}
func (c counting) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc("asked", "Asked.", nil, nil), prometheus.GaugeValue, float64(c.asked.Add(1)))
}

// TestScrapesOfASecondAreShared asks in every format, one after the other.
func TestScrapesOfASecondAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry, collector := prometheus.NewRegistry(), counting{new(atomic.Int64)}
		registry.MustRegister(collector)
		handler := newHandler(t, registry, slog.New(slog.DiscardHandler))
		for range 100 {
			if text := scrape(handler, "", "").Body.String(); !strings.Contains(text, "\nasked ") {
				t.Fatalf("text is %q", text)
			}
			if text := scrape(handler, "", "application/openmetrics-text;version=1.0.0").Body.String(); !strings.HasSuffix(text, "# EOF\n") {
				t.Fatalf("OpenMetrics is %q", text)
			}
			if text := scrape(handler, "?name[]=none", "").Body.String(); text != "" {
				t.Fatalf("without any metric: %q", text)
			}
		}
		if n := collector.asked.Load(); n > 20 {
			t.Errorf("collected %d times for 300 scrapes at once", n)
		}
		before := collector.asked.Load()
		time.Sleep(time.Second)
		if want := fmt.Sprintf("\nasked %d\n", before+1); !strings.Contains(scrape(handler, "", "").Body.String(), want) {
			t.Errorf("a second later it is not collected anew")
		}
		handler.Uncached().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
		if n := collector.asked.Load(); n != before+2 {
			t.Errorf("collected %d times, want %d: the daemon's own scrape is not shared", n, before+2)
		}
	})
}

// broken is a collector that fails.
type broken struct{}

func (broken) Describe(chan<- *prometheus.Desc) {}
func (broken) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.NewInvalidMetric(prometheus.NewDesc("broken", "Broken.", nil, nil), errors.New("out of order"))
}

// panicking is a collector with a label that no metric may have.
type panicking struct{}

func (panicking) Describe(chan<- *prometheus.Desc) {}
func (panicking) Collect(out chan<- prometheus.Metric) {
	desc := prometheus.NewDesc("panics", "Panics.", []string{"label"}, nil)
	out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, 1, "mod\xe8le")
}

// TestACollectorFailsAlone shows the metrics of the others.
func TestACollectorFailsAlone(t *testing.T) {
	t.Parallel()
	registry, log := prometheus.NewRegistry(), newLevels()
	registry.MustRegister(broken{}, exporter.Guard(panicking{}), counting{new(atomic.Int64)})
	handler := newHandler(t, registry, slog.New(log))
	if rec := scrape(handler, "", ""); rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), "\nasked 1\n") {
		t.Errorf("status %d with %q, want 200 with the metrics of the others", rec.Code, rec.Body)
	}
	if level := <-log.lines; level != slog.LevelError {
		t.Errorf("a collector that fails is logged at %s", level)
	}
	if text := scrape(handler, "", "").Body.String(); !strings.Contains(text, "\nusaged_scrape_errors_total 1\n") {
		t.Errorf("the failure is not counted: %s", text)
	}
}
