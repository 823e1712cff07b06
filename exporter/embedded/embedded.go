// Package embedded runs a Prometheus inside usaged: a TSDB, a scrape of the daemon's own registry, the shipped rules and the
// operator's, alerts to Alertmanager, remote write, and the HTTP API that Grafana asks.
//
// [Open] reads the configuration and returns; the TSDB is opened in the background, because replaying its log can take
// seconds, and the daemon must accept events at once. Until then [Prometheus.ServeHTTP] answers 503.
//
// The configuration is Prometheus' own, in a subset: see [Config]. Nothing of it is served without authentication by this
// package's caller, which mounts the handler.
//
//	prom, err := embedded.Open(embedded.Config{Dir: dir, Metrics: handler, Registerer: registry, …})
//	mux.Handle("/prometheus/", prom)
//	err = prom.Close(ctx)
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/config"

	"usaged/aggregator/aside"
)

// Config assembles a Prometheus. Fields are required unless they say otherwise.
type Config struct {
	// Dir is the directory of the TSDB. RemoteWriteDir is that of the cursors of remote write. Both are made where absent.
	Dir, RemoteWriteDir string
	// Retention is how long samples are kept, MaxBytes how much of them; 0 bytes is no limit.
	Retention time.Duration
	MaxBytes  int64

	// ConfigFile is a Prometheus configuration with no more than global, scrape_configs (static_configs only), remote_write
	// and alerting. Empty: none.
	ConfigFile string
	// RemoteWriteURLs and AlertmanagerURLs come on top of what the file has.
	RemoteWriteURLs, AlertmanagerURLs []string
	// KeepRecorded keeps here what rules record and alerts raise, since somebody else evaluates the same rules on what is sent
	// there: it is not sent to endpoints of remote write that have no write_relabel_configs.
	KeepRecorded bool
	// Rules has the shipped rule files in its root. RulesFile is the operator's; a rule there replaces all shipped rules of
	// its name. Empty: none.
	Rules     fs.FS
	RulesFile string
	// Receiver lets others write here by remote write.
	Receiver bool

	// Metrics answers the scrape of the daemon itself. Instance is its instance label, host:port.
	Metrics  http.Handler
	Instance string
	// URL is where the handler is mounted as others reach it, without a slash at its end. Alerts carry links that begin so.
	URL string

	// Now is the time by which samples are stamped and rules evaluated. It must not follow a clock of the machine that has jumped. Deletion
	// is the time by which blocks are deleted, never later than Now; Now where nil. Wall is the machine's clock, time.Now where nil.
	Now, Deletion, Wall func() time.Time

	Log *slog.Logger
	// Damaged is where files go that cannot be used. Nil: they stay where they are, and the Prometheus stays closed.
	Damaged *aside.Shelf
	// Registerer takes the metrics of Prometheus that matter here, and those of this package and of remote write.
	Registerer prometheus.Registerer
}

// Prometheus is a Prometheus that runs, or is about to. It is safe for concurrent use.
type Prometheus struct {
	cfg   Config
	log   *slog.Logger
	ready prometheus.Gauge
	// failures counts attempts at opening that failed.
	failures    prometheus.Counter
	running     atomic.Pointer[running] // nil until the TSDB is open
	opened      chan struct{}           // closed when it is open the first time, or when opening was given up because of a stop
	firstOpened sync.Once               // closes opened
	ended       chan struct{}           // closed when nothing is opened any more
	repaired    atomic.Bool
	giveUp      context.CancelFunc // ends opening

	mu       sync.Mutex // one reload or stop at a time
	settings *config.Config
	closed   bool
}

// Check says what is wrong with the files and URLs of a configuration.
func Check(cfg Config) error {
	_, err := cfg.load()
	return err
}

// Open reads the configuration and starts. The error is about the configuration. Where the TSDB cannot be opened, what is damaged
// in it is set aside and opening is tried again in the background, while the daemon goes on without it.
func Open(cfg Config) (*Prometheus, error) {
	settings, err := cfg.load()
	if err != nil {
		return nil, err
	}
	p := &Prometheus{
		cfg: cfg, log: cfg.Log.With("component", "prometheus"), settings: settings, opened: make(chan struct{}), ended: make(chan struct{}),
		ready: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "usaged_prometheus_ready",
			Help: "Whether the embedded Prometheus is open: 1, or 0 while it opens and when it cannot.",
		}),
	}
	p.failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "usaged_prometheus_open_failures_total",
		Help: "Attempts at opening the embedded Prometheus that failed. Another follows within a minute.",
	})
	if err := errors.Join(cfg.Registerer.Register(p.ready), cfg.Registerer.Register(p.failures)); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	p.clearPlace()
	ctx, cancel := context.WithCancel(context.Background())
	p.giveUp = cancel
	go p.keepOpen(ctx)
	return p, nil
}

// Wait waits until the Prometheus is open. The error is that ctx ended first, or ErrNotOpen where it was stopped before.
func (p *Prometheus) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-p.opened:
	}
	if p.running.Load() == nil {
		return ErrNotOpen
	}
	return nil
}

// Reload reads the files again. On an error what was in force before stays.
func (p *Prometheus) Reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	settings, err := p.cfg.load()
	if err != nil {
		return err
	}
	if r := p.running.Load(); r != nil {
		if err := r.apply(settings); err != nil {
			return errors.Join(err, r.apply(p.settings))
		}
	}
	p.settings = settings
	return nil
}

// Close scrapes and evaluates no more, sends what remote write has left, as far as ctx allows, and closes the TSDB. An attempt at
// opening that does not end is left behind: nothing has been appended to it.
func (p *Prometheus) Close(ctx context.Context) error {
	p.giveUp()
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-p.ended:
	case <-patience.C:
		p.log.Info("the embedded Prometheus was still opening; it is not waited for", "waited_seconds", stopPatience.Seconds())
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close the embedded Prometheus, which is still opening: %w", ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.running.Load()
	if r == nil || p.closed {
		return nil
	}
	p.closed = true
	p.ready.Set(0)
	return r.close(ctx)
}

// ServeHTTP answers what begins with /prometheus/.
func (p *Prometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if running := p.running.Load(); running != nil {
		running.handler.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Retry-After", "1")
	respondError(w, http.StatusServiceUnavailable, "unavailable", "the embedded Prometheus is not open: it may be reading its log; usaged_prometheus_ready and the log of usaged say more")
}
