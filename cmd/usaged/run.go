package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"

	"usaged/aggregator"
	"usaged/aggregator/aside"
	"usaged/aggregator/clock"
	"usaged/aggregator/datadir"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/retention"
	"usaged/aggregator/rollup"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/sqlite"
	"usaged/api"
	"usaged/api/auth"
	"usaged/api/quota"
	"usaged/exporter"
	"usaged/exporter/backfill"
	"usaged/exporter/embedded"
	"usaged/rules/accept"
	"usaged/rules/price"
	"usaged/rules/quiet"
)

const (
	// requestTimeout is how long a stop waits for requests under way. Those that were answered are durable, whatever follows.
	requestTimeout = 10 * time.Second
)

// run starts the daemon and stops it when ctx ends. What is acquired first is released last:
//
//	data directory ◄── clock ◄── debug listener ◄── store ◄── Prometheus ◄── journal and applier ◄── cache warming ◄── backfill ◄── HTTP
//
// so that a stop first ends ingest, then finishes applying and closes the journal, then sends the last samples, and closes the
// store.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, machine clock.Machine) (err error) {
	cfg, err := parseConfig(args, stdout, stderr)
	if err != nil || cfg.exit {
		return err
	}
	if err := cfg.checkFiles(); err != nil { // before anything is made
		return err
	}
	if cfg.checkConfig {
		fmt.Fprintln(stdout, "configuration is valid")
		return nil
	}
	log := cfg.logger(stderr)
	cfg.limitMemory(log)
	var open closers
	started := false
	defer func() {
		if err = errors.Join(err, open.close(log)); err == nil && started {
			log.Info("stopped")
		}
	}()

	unlock, err := lockDataDir(cfg.dataDir)
	if err != nil {
		return err
	}
	open.push("data directory", unlock)

	d := &daemon{cfg: cfg, log: log, set: metrics.NewSet(), registry: prometheus.NewRegistry()}
	d.openClock(machine, &open)
	if d.metrics, err = exporter.NewHandler(d.registry, log); err != nil {
		return err
	}
	if d.damaged, err = aside.New(cfg.dataDir, log, d.registry); err != nil {
		return err
	}
	d.openRetention()
	if err := d.tokens(); err != nil {
		return err
	}
	if err := d.listenDebug(&open); err != nil {
		return err
	}
	if err := d.aggregate(ctx, &open); err != nil {
		return err
	}
	if err := d.openQuiet(); err != nil {
		return err
	}
	if d.prices, err = price.Open(cfg.pricesFile); err != nil {
		return err
	}
	if err := d.export(&open); err != nil {
		return err
	}
	if err := d.startPrometheus(); err != nil {
		return err
	}
	if err := d.startBackfill(&open); err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // before anybody can know that we are here, because otherwise it would end us
	defer signal.Stop(hangup)
	failed, err := d.serve(&open)
	if err != nil {
		return err
	}
	started = true
	log.Info("started usaged", "version", version.Info(), "data_dir", cfg.dataDir)
	return d.wait(ctx, hangup, failed)
}

// daemon is what run has assembled so far.
type daemon struct {
	cfg      *config
	log      *slog.Logger
	clock    *clock.Clock
	kept     *retention.Policy
	set      *metrics.Set
	registry *prometheus.Registry

	metrics    *exporter.Handler
	damaged    *aside.Shelf
	auth       *auth.Tokens
	quotas     *quota.Accounts
	issuers    *auth.Issuers // nil where no issuers file is named
	agg        *aggregator.Aggregator
	reader     *rollup.Reader
	quiet      *quiet.Times
	accepted   *accept.Normals
	prices     *price.Table
	prometheus *embedded.Prometheus // nil where it is off
	backfill   *backfill.Backfiller // nil where there is no Prometheus
	stopping   atomic.Bool
}

// lockDataDir makes the data directory and locks it against a second daemon.
func lockDataDir(dir string) (unlock func(context.Context) error, err error) {
	syscall.Umask(0o027) // whatever the directory's mode is: the events in it are nobody else's business
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make data directory: %w: name a writable one with --data.dir", err)
	}
	lock, err := datadir.Acquire(dir)
	if errors.Is(err, datadir.ErrInUse) {
		return nil, fmt.Errorf("data directory %s is in use by another usaged: stop that one, or name another directory with --data.dir", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: make it writable, or name another with --data.dir", err)
	}
	return func(context.Context) error { return lock.Release() }, nil
}

// tokens loads the tokens, and makes them at the first start.
func (d *daemon) tokens() (err error) {
	if d.cfg.ownTokens() {
		made, err := auth.GenerateTokens(d.cfg.dataDir)
		if err != nil {
			return fmt.Errorf("make tokens: %w", err)
		}
		if made {
			d.log.Info("made an admin, a producer, a viewer and a user token; their plaintexts are in the data directory",
				"files", filepath.Join(d.cfg.dataDir, "<role>.token"))
		}
	}
	d.set.GetOrCreateGauge(auth.ExposedName, func() float64 {
		if auth.Exposed(d.cfg.tokensFile) != "" {
			return 1
		}
		return 0
	})
	d.warnExposed()
	for _, outcome := range []string{"ok", "error"} {
		d.set.GetOrCreateCounter(fmt.Sprintf("%s{outcome=%q}", reloadsName, outcome))
	}
	quotas, err := quota.Load(d.cfg.quotasFile)
	if err != nil {
		return err
	}
	d.quotas = quota.NewAccounts(quotas, nil)
	if d.auth, err = auth.LoadTokens(d.cfg.tokensFile); err != nil || d.cfg.issuersFile == "" {
		return err
	}
	d.issuers, err = auth.LoadIssuers(d.cfg.issuersFile, auth.IssuersConfig{
		Now: d.clock.Now,
		Log: d.log.With("component", "auth"),
		Fetched: func(issuer string, err error) {
			d.set.GetOrCreateCounter(auth.FetchesName(issuer, err)).Inc()
		},
	})
	return err
}

// listenDebug serves pprof and metrics on their own listener, which closes last so that the stop itself can be seen.
func (d *daemon) listenDebug(open *closers) error {
	if d.cfg.debugListen == "" {
		return nil
	}
	listener, err := net.Listen("tcp", d.cfg.debugListen)
	if err != nil {
		return fmt.Errorf("listen for --debug.listen-address: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/metrics", d.metrics)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(listener) //nolint:errcheck // it returns when it is closed
	open.push("debug listener", func(context.Context) error { return server.Close() })
	d.log.Info("serving debug endpoints", "address", listener.Addr().String())
	return nil
}

// openStore opens Redis where one is named, and otherwise the embedded database.
func (d *daemon) openStore(ctx context.Context) (store.Store, error) {
	log := d.log.With("component", "store")
	if d.cfg.redis.URL == "" {
		return d.openDatabase(ctx, sqlite.Config{Path: filepath.Join(d.cfg.dataDir, datadir.Database), Log: log, Metrics: d.set})
	}
	cfg := d.cfg.redis
	cfg.Retention, cfg.Kept, cfg.Log, cfg.Metrics = d.cfg.retentionDays, d.kept.Written, log, d.set
	if cfg.Partitions == 0 { // Redis may be away
		var err error
		if cfg.Partitions, err = aggregator.Partitions(d.cfg.dataDir); err != nil {
			return nil, fmt.Errorf("open data directory: %w", err)
		}
	}
	return redis.Open(ctx, cfg)
}

// openDatabase opens the embedded database. One that is damaged is set aside, and made again from the journal and its checkpoints.
func (d *daemon) openDatabase(ctx context.Context, cfg sqlite.Config) (store.Store, error) {
	st, err := sqlite.Open(ctx, cfg)
	if !errors.Is(err, sqlite.ErrDamaged) {
		return st, err
	}
	if err := d.damaged.Move(aside.Database, err, cfg.Path, cfg.Path+"-wal", cfg.Path+"-shm"); err != nil {
		return nil, err
	}
	return sqlite.Open(ctx, cfg)
}

// aggregate opens the store and the aggregator.
func (d *daemon) aggregate(ctx context.Context, open *closers) error {
	meters, err := meter.Load(d.cfg.metersFile)
	if err != nil {
		return err
	}
	st, err := d.openStore(ctx)
	if err != nil {
		return err
	}
	open.push("store", func(context.Context) error { return st.Close() })
	open.push("embedded Prometheus and remote write", d.closePrometheus) // its last scrape finds everything applied

	d.agg, err = aggregator.Open(aggregator.Config{
		Dir:            d.cfg.dataDir,
		Store:          st,
		Shared:         d.cfg.redis.URL != "",
		Meters:         meters,
		Retention:      d.cfg.retentionDays,
		Policy:         d.kept,
		RetentionBytes: int64(d.cfg.retentionSize),
		Now:            d.clock.Now,
		Deletion:       d.clock.Deletion,
		Log:            d.log,
		Metrics:        d.set,
		Registerer:     d.registry,
	})
	if err != nil {
		return err
	}
	open.push("aggregator", func(context.Context) error { return d.agg.Close() })

	d.reader = rollup.NewReader(rollup.Config{
		Store:     st,
		Meters:    d.agg.Meters,
		Retention: d.cfg.retentionDays,
		CacheFile: filepath.Join(d.cfg.dataDir, "days.cache"),
		Now:       d.clock.Now,
		Log:       d.log.With("component", "reader"),
		Metrics:   d.set,
	})
	warmCtx, stopWarming := context.WithCancel(context.Background())
	warmed := make(chan struct{})
	go func() {
		defer close(warmed)
		d.reader.Warm(warmCtx)
	}()
	open.push("reader", func(context.Context) error {
		stopWarming()
		<-warmed
		return nil
	})
	return nil
}

// warnExposed warns of a tokens file that others can get at.
func (d *daemon) warnExposed() {
	if how := auth.Exposed(d.cfg.tokensFile); how != "" {
		d.log.Warn("the tokens file is open to others: take their rights away with chmod 0640", "file", d.cfg.tokensFile, "how", how)
	}
}

// reloadMeters puts the meters of the file in force.
func (d *daemon) reloadMeters() error {
	meters, err := meter.Load(d.cfg.metersFile)
	if err != nil {
		return err
	}
	return d.agg.SetMeters(meters)
}

// reloadQuotas puts the quotas of the file in force.
func (d *daemon) reloadQuotas() error {
	cfg, err := quota.Load(d.cfg.quotasFile)
	if err != nil {
		return err
	}
	d.quotas.Configure(cfg)
	return nil
}

// export registers what /metrics shows beside what the packages have registered themselves.
func (d *daemon) export(open *closers) error {
	usage, err := exporter.NewUsage(exporter.UsageConfig{
		Path:   filepath.Join(d.cfg.dataDir, "counters.json"),
		Totals: d.agg.Totals,
		Meters: d.agg.Meters,
		Log:    d.log,
	})
	if err != nil {
		return err
	}
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("usaged"),
		exporter.NewDisk(d.cfg.dataDir),
		exporter.NewSetCollector(d.set, clock.Help(), retention.Help(), journal.Help(), sqlite.Help(), redis.Help(), aggregator.Help(), rollup.Help(), auth.Help(), api.Help(), announceHelp(), reloadHelp),
		usage,
		d.gauges(open),
		d.quiet,
		d.accepted,
		d.prices,
		d.replicas(open),
	} {
		if err := d.registry.Register(exporter.Guard(c)); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// gauges returns the collector of what is true of all replicas, which counts in the background.
func (d *daemon) gauges(open *closers) *exporter.Gauges {
	g := exporter.NewGauges(exporter.GaugesConfig{
		ActiveUsers: func(ctx context.Context, days int) (int, error) {
			return d.reader.ActiveUsers(ctx, d.reader.Window(days))
		},
		Version: func(ctx context.Context, days int) (string, error) {
			return d.reader.Version(ctx, d.reader.Window(days))
		},
		Newest:    d.agg.Newest,
		Retention: d.cfg.retentionDays,
		Log:       d.log,
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Run(ctx)
	}()
	open.push("gauges", func(context.Context) error {
		stop()
		<-done
		return nil
	})
	return g
}

// replicas returns the collector that counts who shares the store, and tells the store in the background that we do.
func (d *daemon) replicas(open *closers) *exporter.Replicas {
	r := exporter.NewReplicas(exporter.ReplicasConfig{Alive: d.agg.Alive, Log: d.log})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	open.push("replicas", func(context.Context) error {
		stop()
		<-done
		return nil
	})
	return r
}

// serve listens and answers. The channel gets an error if a listener fails.
func (d *daemon) serve(open *closers) (failed <-chan error, err error) {
	health, err := d.healthReader(open)
	if err != nil {
		return nil, err
	}
	names, err := quota.OpenNames(filepath.Join(d.cfg.dataDir, "names.json"), d.agg.Labels())
	if err != nil {
		d.log.Warn("tokens have their new names of the day once more", "err", err)
	}
	handler, err := api.New(api.Config{
		Accepter:    d.agg,
		Reader:      d.reader,
		Ledger:      d.agg,
		Meters:      d.agg,
		Tails:       d.agg,
		Quiet:       d.quiet,
		Accepted:    d.accepted,
		Clock:       d.clock,
		Retention:   d.agg,
		Health:      health,
		Backfill:    d.backfiller(),
		Tokens:      d.auth,
		Issuers:     d.issuers,
		Labels:      d.agg,
		Quotas:      d.quotas,
		Names:       names,
		Ready:       d.ready,
		Metrics:     d.metrics,
		MetricsAuth: d.cfg.metricsAuth,
		Prometheus:  d.prometheusHandler(),
		Reload:      d.reload,
		Now:         d.clock.Now,
		Latest:      d.clock.Latest,
		Logger:      d.log,
		Set:         d.set,
		Registerer:  d.registry,
	})
	if err != nil {
		return nil, err
	}
	connections := api.NewConnections(d.cfg.connections(d.log))
	connections.Expose(d.set)
	var listeners []net.Listener
	for _, address := range d.cfg.listen {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, fmt.Errorf("listen for --web.listen-address: %w: stop what uses the address, or name another", err)
		}
		listeners = append(listeners, connections.Listen(listener))
	}
	server := api.Server(handler, d.log)
	connections.Bound(server)
	server.RegisterOnShutdown(handler.EndStreams)
	serveErr := make(chan error, 1)
	go func() {
		err := web.ServeMultiple(listeners, server, &web.FlagConfig{WebConfigFile: &d.cfg.webConfigFile}, d.log)
		if !errors.Is(err, http.ErrServerClosed) {
			serveErr <- fmt.Errorf("serve HTTP: %w", err)
		}
	}()
	open.push("HTTP server", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		err := server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			d.log.Warn("some clients were too slow with their requests; their connections are cut", "waited_seconds", requestTimeout.Seconds())
			return server.Close()
		}
		return err
	})
	d.announce(listeners, open)
	return serveErr, nil
}

// ready says why a load balancer should send nothing.
func (d *daemon) ready() error {
	if d.stopping.Load() {
		return errors.New("usaged is stopping")
	}
	return d.agg.Ready()
}

// wait waits for the signal to stop, and reloads on SIGHUP.
func (d *daemon) wait(ctx context.Context, hangup <-chan os.Signal, failed <-chan error) error {
	for {
		select {
		case <-hangup:
			if err := d.reload(); err != nil {
				d.log.Error("reload failed", "err", err)
				continue
			}
			d.log.Info("reloaded the configuration")
		case err := <-failed:
			return err
		case <-ctx.Done():
			d.stopping.Store(true)
			d.log.Info("stopping", "drain_seconds", d.cfg.drainDelay.Seconds())
			time.Sleep(d.cfg.drainDelay)
			return nil
		}
	}
}
