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

// slow is a collector whose scrapes last until they are told to end.
type slow struct{ begun, end chan struct{} }

func newSlow() slow { return slow{make(chan struct{}, 1000), make(chan struct{})} }

func (s slow) Describe(chan<- *prometheus.Desc) {}
func (s slow) Collect(out chan<- prometheus.Metric) {
	s.begun <- struct{}{}
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
	registry, log, collector := prometheus.NewRegistry(), newLevels(), newSlow()
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

// TestAFloodOfScrapes has many more scrapers than may wait. The metrics are collected twice: for the first, and for those who came
// while they were collected for it.
func TestAFloodOfScrapes(t *testing.T) {
	t.Parallel()
	registry, collector := prometheus.NewRegistry(), newSlow()
	registry.MustRegister(collector)
	handler := newHandler(t, registry, slog.New(slog.DiscardHandler))
	const scrapers = 500
	answers := make(chan *httptest.ResponseRecorder, scrapers)
	ask := func() { answers <- scrape(handler, "", "") }
	go ask()
	<-collector.begun
	for range scrapers - 1 {
		go ask()
	}
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
	<-collector.begun
	if n := len(collector.begun); n != 0 {
		t.Errorf("collected %d times more than twice", n)
	}
}

// TestNothingIsCollectedForThoseWhoHaveGone asks while metrics are collected, and hangs up.
func TestNothingIsCollectedForThoseWhoHaveGone(t *testing.T) {
	t.Parallel()
	registry, collector := prometheus.NewRegistry(), newSlow()
	registry.MustRegister(collector)
	handler := newHandler(t, registry, slog.New(slog.DiscardHandler))
	answer := make(chan *httptest.ResponseRecorder)
	go func() { answer <- scrape(handler, "", "") }()
	<-collector.begun
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	for range 100 {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody).WithContext(gone))
	}
	collector.end <- struct{}{}
	<-answer
	go func() { answer <- scrape(handler, "", "") }()
	<-collector.begun
	close(collector.end)
	<-answer
	if n := len(collector.begun); n != 0 {
		t.Errorf("collected %d times for those who have gone", n)
	}
}

// counting is a collector that counts how often it was asked.
type counting struct{ asked *atomic.Int64 }

func (counting) Describe(chan<- *prometheus.Desc) {}
func (c counting) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc("asked", "Asked.", nil, nil), prometheus.GaugeValue, float64(c.asked.Add(1)))
}

// TestAScrapeShowsWhatWasCountedBefore asks in every format, one after the other. Each answer was collected for it, and the rate at
// which they are is bounded.
func TestAScrapeShowsWhatWasCountedBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry, collector := prometheus.NewRegistry(), counting{new(atomic.Int64)}
		registry.MustRegister(collector)
		handler := newHandler(t, registry, slog.New(slog.DiscardHandler))
		began := time.Now()
		for n := 1; n < 300; n += 3 {
			if text := scrape(handler, "", "").Body.String(); !strings.Contains(text, fmt.Sprintf("\nasked %d\n", n)) {
				t.Fatalf("text is %q, want one that was collected for it, number %d", text, n)
			}
			if text := scrape(handler, "", "application/openmetrics-text;version=1.0.0").Body.String(); !strings.HasSuffix(text, "# EOF\n") {
				t.Fatalf("OpenMetrics is %q", text)
			}
			if text := scrape(handler, "?name[]=none", "").Body.String(); text != "" {
				t.Fatalf("without any metric: %q", text)
			}
		}
		if took := time.Since(began); took < 290*time.Second/5 {
			t.Errorf("collected 300 times in %s, want five times a second at most", took)
		}
		before := collector.asked.Load()
		handler.Uncached().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
		if n := collector.asked.Load(); n != before+1 {
			t.Errorf("collected %d times, want %d: the daemon's own scrape does not wait", n, before+1)
		}
	})
}

// TestAScrapeBesideTooMany gets the metrics of the last second, without waiting for new ones.
func TestAScrapeBesideTooMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry, collector := prometheus.NewRegistry(), newSlow()
		registry.MustRegister(collector)
		handler := newHandler(t, registry, slog.New(slog.DiscardHandler))
		answers := make(chan *httptest.ResponseRecorder, 100)
		ask := func() { answers <- scrape(handler, "", "") }
		go ask()
		collector.end <- struct{}{}
		<-answers
		for range 50 {
			go ask()
		}
		synctest.Wait() // they wait
		if rec := scrape(handler, "", ""); rec.Code != http.StatusOK {
			t.Errorf("status %d beside those who wait, want the metrics of the last second", rec.Code)
		}
		time.Sleep(2 * time.Second)
		if rec := scrape(handler, "", ""); rec.Code != http.StatusServiceUnavailable {
			t.Errorf("status %d, want 503: the metrics are too old", rec.Code)
		}
		close(collector.end)
		for range 50 {
			<-answers
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
