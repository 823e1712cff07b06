package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator"
	"usaged/aggregator/event"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/api/auth"
	"usaged/api/quota"
)

// Accepter makes events durable.
type Accepter interface {
	// Accept returns nil once the batch is durable. The error is aggregator.ErrUnavailable (errors.Is) while that is
	// impossible; after any error nothing of the batch was accepted. The batch is the caller's again on return.
	Accept(batch *event.Batch) error
}

// Reader answers questions about windows of days.
type Reader interface {
	// Retention is the longest window in days.
	Retention() int
	// Window returns today (UTC) and the days-1 days before.
	Window(days int) rollup.Window
	// Version changes whenever an answer about the window may. It is cheap: it reads no rollups.
	Version(ctx context.Context, w rollup.Window) (string, error)
	// Summary returns the events per type and user, in the order of types.
	Summary(ctx context.Context, w rollup.Window, q rollup.SummaryQuery) ([]rollup.TypeUsers, error)
	// Meters returns the meters in force, in the order of their names.
	Meters() []meter.Meter
	// Meter returns the totals of one dimension, in descending order, ties by key; at most top of them where top > 0.
	Meter(ctx context.Context, w rollup.Window, m *meter.Meter, dim meter.Dim, top int) ([]rollup.Total, error)
	// Daily returns the events by type of every day of the window, oldest first.
	Daily(ctx context.Context, w rollup.Window) ([]rollup.DayTotals, error)
	// DailyMeters does so for the totals of meters.
	DailyMeters(ctx context.Context, w rollup.Window, meters []meter.Meter) ([]rollup.DayTotals, error)
}

// Rebuilder knows how much of the past each meter has counted.
type Rebuilder interface {
	// MeterStates returns the meters in force.
	MeterStates() []aggregator.MeterState
	// RebuildMeter has a meter's past counted. The error is aggregator.ErrNoMeter (errors.Is) where none has the name.
	RebuildMeter(name string) error
}

// Ledger gives the accounts of this data directory.
type Ledger interface {
	Ledger(ctx context.Context) (*ledger.Report, error)
	// Pending returns how many events have been accepted and are not counted yet. It does not wait for the store; where that is not
	// known yet, known is false.
	Pending() (n uint64, known bool)
}

// Config is what an API is made of. Fields are required unless they say otherwise.
type Config struct {
	Accepter Accepter
	Reader   Reader
	Ledger   Ledger
	Meters   Rebuilder
	Tails    Tailer
	Quiet    QuietTimes
	Accepted AcceptedNormals
	Clock    Clock
	Labels   LabelRoom
	// Retention says how many days are kept.
	Retention Retainer
	Tokens    *auth.Tokens
	// Issuers verify JSON Web Tokens. Nil: none is accepted.
	Issuers *auth.Issuers
	// Quotas bound what each token may ask for. Nil: the defaults of package quota.
	Quotas *quota.Accounts
	// Names bound the new names of tokens. Nil: those that this API has seen itself are known, and nothing is kept.
	Names *quota.Names

	// Health says how healthy usage is. Nil: GET health says that nothing does.
	Health HealthReader
	// Backfill writes the past into the embedded Prometheus. Nil: there is none.
	Backfill Backfiller
	// Ready returns nil while the daemon can take events, and otherwise says why not. Nil: always ready.
	Ready func() error
	// Reload reads the configuration again, tokens included. Nil: the tokens alone are read again.
	Reload func() error
	// Metrics answers GET /metrics. Nil: 404.
	Metrics http.Handler
	// MetricsAuth demands a token of a viewer or an admin for GET /metrics.
	MetricsAuth bool
	// Prometheus answers what begins with /prometheus/, for viewers and admins; samples are written there by producers and
	// admins. Nil: 404.
	Prometheus http.Handler
	// MaxInflightBytes bounds the request bodies that are held at one time; beyond it requests are answered 503. The
	// encoded events need up to as much again. Zero: 128 MiB.
	MaxInflightBytes int64

	// Now is the clock by which events are stamped. Nil: time.Now.
	Now func() time.Time
	// Latest is the latest time that a sender whose clock is right can have, see event.Origin. Nil: Now.
	Latest func() time.Time
	Logger *slog.Logger
	// Set takes counters and gauges; Help has their help texts.
	Set *metrics.Set
	// Registerer takes histograms.
	Registerer prometheus.Registerer
}

const defaultMaxInflightBytes = 128 << 20

// API is the http.Handler of the daemon.
type API struct {
	cfg      Config
	log      *slog.Logger
	metrics  *apiMetrics
	bodies   *bodies
	decoders sync.Pool // of *event.Decoder
	reads    chan struct{}
	tails    chan struct{}
	ending   chan struct{} // closed by EndStreams
	endOnce  sync.Once
	handler  http.Handler
	all      []route

	healthAway atomic.Bool // the cause is in the log
	denials    denials
}

// New assembles the API. It fails where a required field of the configuration is missing or a metric is registered
// already.
func New(cfg Config) (*API, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	if cfg.MaxInflightBytes == 0 {
		cfg.MaxInflightBytes = defaultMaxInflightBytes
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Latest == nil {
		cfg.Latest = cfg.Now
	}
	if cfg.Reload == nil {
		cfg.Reload = cfg.Tokens.Reload
	}
	if cfg.Quotas == nil {
		defaults, err := quota.Load("")
		if err != nil {
			return nil, fmt.Errorf("api: %w", err)
		}
		cfg.Quotas = quota.NewAccounts(defaults, cfg.Now)
	}
	if cfg.Names == nil {
		var err error
		if cfg.Names, err = quota.OpenNames("", nil); err != nil {
			return nil, fmt.Errorf("api: %w", err)
		}
	}
	a := &API{
		cfg:    cfg,
		log:    cfg.Logger.With("component", "api"),
		bodies: newBodies(cfg.MaxInflightBytes),
		reads:  make(chan struct{}, maxConcurrentReads),
		tails:  make(chan struct{}, maxTails),
		ending: make(chan struct{}),
	}
	a.decoders.New = func() any { return event.NewDecoder() }
	var err error
	if a.metrics, err = newMetrics(cfg.Set, cfg.Registerer, a.bodies); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	a.all = a.routes()
	if a.handler, err = a.router(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	return a, nil
}

func (c *Config) validate() error {
	var errs []error
	need := func(ok bool, field string) {
		if !ok {
			errs = append(errs, fmt.Errorf("config field %s is required", field))
		}
	}
	need(c.Accepter != nil, "Accepter")
	need(c.Reader != nil, "Reader")
	need(c.Ledger != nil, "Ledger")
	need(c.Meters != nil, "Meters")
	need(c.Tails != nil, "Tails")
	need(c.Quiet != nil, "Quiet")
	need(c.Accepted != nil, "Accepted")
	need(c.Labels != nil, "Labels")
	need(c.Tokens != nil, "Tokens")
	need(c.Logger != nil, "Logger")
	need(c.Set != nil, "Set")
	need(c.Registerer != nil, "Registerer")
	need(c.MaxInflightBytes >= 0, "MaxInflightBytes (not negative)")
	return errors.Join(errs...)
}

// ServeHTTP answers a request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header()["X-Content-Type-Options"] = nosniff
	a.handler.ServeHTTP(w, r)
}

// nosniff keeps browsers from taking an answer for something else than its Content-Type says. It is shared by all answers.
var nosniff = []string{"nosniff"}
