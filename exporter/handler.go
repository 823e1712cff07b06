package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/time/rate"
)

const (
	// scrapeTimeout bounds the wait for a scrape. Prometheus waits ten seconds, unless it is told to wait for less.
	scrapeTimeout = 10 * time.Second
	// gathersPerSecond and gatherBurst are how often the registry is gathered. Whoever asks more often waits for a fifth of a second.
	gathersPerSecond = 5
	gatherBurst      = 10
	// maxScrapesWaiting is how many requests wait for the metrics at a time. A Prometheus has one.
	maxScrapesWaiting = 50
	// maxSharedAge is how old the metrics may be that one more gets, without waiting.
	maxSharedAge = time.Second
)

// Handler serves what a registry has, in the format that the scraper asks for. It is safe for concurrent use.
//
// Who waits gets metrics that were gathered after the request came, so that they show whatever was counted before it. Anybody may ask,
// so what all requests cost together is bounded: there is one gather at a time and a few a second, each is shared by all who wait for
// it, and each format of it is written once. Where too many wait already, one more gets the metrics of the last second. Nothing is
// gathered for those who have gone, and what goes on when nobody waits any more is at most one gather.
//
// A collector that fails costs its own metrics and not those of others.
type Handler struct {
	registry prometheus.Gatherer
	log      *slog.Logger
	failures prometheus.Counter
	rejected prometheus.Counter
	rate     *rate.Limiter // of gathers

	mu      sync.Mutex
	running bool       // whether collect is
	next    *gathering // which those who come now wait for; nil where nobody came since the last began
	last    *gathering // the newest that is complete; nil before the first
	waiting int        // requests that wait for any gathering
}

// gathering is one reading of the registry.
type gathering struct {
	waiting int // requests that wait for this one; guarded by the handler's lock

	// These are set before done is closed.
	done     chan struct{}
	ended    time.Time
	families []*dto.MetricFamily
	err      error

	mu      sync.Mutex
	written map[string]*page // by format
}

// page is a gathering in one format.
type page struct {
	status int
	header http.Header
	body   []byte
}

// NewHandler returns a handler, whose own metrics it registers.
func NewHandler(registry *prometheus.Registry, log *slog.Logger) (*Handler, error) {
	h := &Handler{
		registry: registry, log: log.With("component", "exporter"), rate: rate.NewLimiter(gathersPerSecond, gatherBurst),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "usaged_scrape_errors_total",
			Help: "Scrapes from which metrics were left out because they could not be collected. The log names them.",
		}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "usaged_scrapes_rejected_total",
			Help: "Scrapes that were answered with 503, because too many waited or the metrics could not be collected in time.",
		}),
	}
	if err := errors.Join(registry.Register(h.failures), registry.Register(h.rejected)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return h, nil
}

// ServeHTTP answers a scrape.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), scrapeTimeout)
	defer cancel()
	p, err := h.page(ctx, r)
	if r.Context().Err() != nil {
		h.log.Debug("a scraper did not wait for the metrics", "err", r.Context().Err())
		return
	}
	if err != nil {
		h.rejected.Inc()
		w.Header().Set("Retry-After", "1")
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	maps.Copy(w.Header(), p.header)
	w.WriteHeader(p.status)
	_, _ = w.Write(p.body) // nobody is left to tell
}

// Uncached returns a handler that gathers for each request, for the daemon's scrape of itself, which must see what was counted a
// moment ago.
func (h *Handler) Uncached() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g := &gathering{}
		h.read(g)
		g.encode(w, r)
	})
}

var errBusy = errors.New("too many scrapes wait for the metrics: ask again in a second")

// page returns the answer to a request, or why it gets none.
func (h *Handler) page(ctx context.Context, r *http.Request) (*page, error) {
	g, err := h.join()
	if err != nil {
		return nil, err
	}
	defer h.leave(g)
	select {
	case <-g.done:
		return g.page(r), nil
	case <-ctx.Done():
		return nil, errors.New("the metrics could not be collected in time: ask again")
	}
}

// join returns the gathering that a request waits for, and counts the request among those that wait. The caller leaves it.
func (h *Handler) join() (*gathering, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.next
	switch {
	case h.waiting < maxScrapesWaiting && g == nil:
		g = &gathering{done: make(chan struct{}), written: map[string]*page{}}
		h.next = g
		if !h.running {
			h.running = true
			go h.collect()
		}
	case h.waiting >= maxScrapesWaiting:
		if g = h.last; g == nil || time.Since(g.ended) > maxSharedAge {
			return nil, errBusy
		}
	}
	g.waiting++
	h.waiting++
	return g, nil
}

// leave takes back what join did.
func (h *Handler) leave(g *gathering) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g.waiting--
	h.waiting--
}

// collect gathers, one after the other, until nobody waits.
func (h *Handler) collect() {
	for h.wanted() {
		_ = h.rate.Wait(context.Background()) // it fails where its context ends
		if g := h.begin(); g != nil {
			h.gather(g)
		}
	}
}

// wanted says whether somebody waits for the next gathering. Where nobody does, collect ends.
func (h *Handler) wanted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil || h.next.waiting == 0 {
		h.next, h.running = nil, false
	}
	return h.running
}

// begin returns the next gathering, which nobody joins any more, or nil where all who waited for it have gone.
func (h *Handler) begin() *gathering {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.next
	h.next = nil
	if g.waiting == 0 {
		return nil
	}
	return g
}

// gather reads the registry for those who wait.
func (h *Handler) gather(g *gathering) {
	h.read(g)
	g.ended = time.Now()
	close(g.done)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = g
}

// read reads the registry. Metrics that are faulty are left out by it.
func (h *Handler) read(g *gathering) {
	if g.families, g.err = h.registry.Gather(); g.err != nil {
		h.failures.Inc()
		h.log.Error("some metrics could not be collected and are left out", "err", g.err)
	}
}

// page returns the metrics in the format that a request wants. There are few formats. What names metrics itself is written anew,
// one at a time.
func (g *gathering) page(r *http.Request) *page {
	gzip := ""
	if accepted := r.Header.Get("Accept-Encoding"); strings.Contains(accepted, "gzip") && !strings.Contains(accepted, "gzip;q=0") {
		gzip = "gzip"
	}
	format := string(expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...))
	g.mu.Lock()
	defer g.mu.Unlock()
	filtered := strings.Contains(r.URL.RawQuery, "name")
	if p := g.written[format+gzip]; p != nil && !filtered {
		return p
	}
	inner := r.Clone(r.Context())
	inner.Method = http.MethodGet
	inner.Header.Set("Accept-Encoding", gzip)
	to := &pageWriter{page: page{status: http.StatusOK, header: http.Header{}}}
	g.encode(to, inner)
	to.page.body = to.body.Bytes()
	if !filtered {
		g.written[format+gzip] = &to.page
	}
	return &to.page
}

// encode writes the metrics.
func (g *gathering) encode(w http.ResponseWriter, r *http.Request) {
	promhttp.HandlerFor(g, promhttp.HandlerOpts{
		EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError,
		OfferedCompressions: []promhttp.Compression{promhttp.Identity, promhttp.Gzip},
	}).ServeHTTP(w, r)
}

// Gather implements prometheus.Gatherer.
func (g *gathering) Gather() ([]*dto.MetricFamily, error) { return g.families, g.err }

// pageWriter is a http.ResponseWriter that keeps what is written.
type pageWriter struct {
	page page
	body bytes.Buffer
}

func (p *pageWriter) Header() http.Header         { return p.page.header }
func (p *pageWriter) WriteHeader(status int)      { p.page.status = status }
func (p *pageWriter) Write(b []byte) (int, error) { return p.body.Write(b) }
