package exporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapeTimeout bounds a scrape. Prometheus waits ten seconds, unless it is told to wait for less.
const scrapeTimeout = 10 * time.Second

// NewHandler serves what a registry has, in the format that the scraper asks for.
func NewHandler(registry prometheus.Gatherer, log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorLog:          scrapeLog{log.With("component", "exporter")},
		Timeout:           scrapeTimeout,
	})
}

// scrapeLog takes the errors of scrapes.
type scrapeLog struct{ log *slog.Logger }

// Println implements promhttp.Logger. A scraper that has gone is no fault of ours.
func (s scrapeLog) Println(v ...any) {
	gone := slices.ContainsFunc(v, func(part any) bool {
		err, ok := part.(error)
		return ok && errors.Is(err, context.Canceled)
	})
	err := strings.TrimSuffix(fmt.Sprintln(v...), "\n")
	if gone {
		s.log.Debug("a scraper did not wait for the metrics", "err", err)
		return
	}
	s.log.Error("a scrape failed", "err", err)
}
