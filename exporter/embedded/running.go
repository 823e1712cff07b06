package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"usaged/exporter/remotewrite"
)

const (
	// maxSamples bounds the memory of a query of a rule or of the daemon itself: about 16 bytes for each sample.
	maxSamples = 20_000_000
	// maxAnswerSamples bounds that of a query over HTTP, whose answer is written in memory too, in about 40 bytes for each sample.
	maxAnswerSamples = 2_500_000
	// ruleTimeout bounds the time of a query of a rule, queryTimeout that of one over HTTP: well below the minute after which the
	// server takes the client of a request for gone.
	ruleTimeout  = time.Minute
	queryTimeout = 30 * time.Second
	// lookback is how old the newest sample of a series may be. Prometheus' default.
	lookback = 5 * time.Minute
	// flushTimeout bounds the last attempt of remote write.
	flushTimeout = 5 * time.Second
	// maxScrapeWaits bounds the wait for the scraper, in steps of five milliseconds.
	maxScrapeWaits = 1000
)

// running is a Prometheus on an open TSDB:
//
//	self-scrape, scrape_configs ─┐                                       ┌─► HTTP API
//	recording rules ─────────────┼─► timely ─► tap ─► forgiving ─► TSDB ┼─► engine ─► rules ─► notifier ─► Alertmanager
//	remote write receiver ───────┘              └── what came late ──►  └─► remote write
type running struct {
	timing   timing
	log      *slog.Logger
	db       *tsdb.DB
	engine   *promql.Engine // of rules and of the daemon itself
	asked    *promql.Engine // of those who ask over HTTP
	rules    *rules.Manager
	loader   *ruleLoader
	alerts   *notifier.Manager
	scrape   *scrape.Manager
	self     *selfScrape
	writer   *remotewrite.Writer
	handler  http.Handler
	rulesURL string

	keepRecorded bool
	metrics      *revocable // what was registered

	scrapeTargets, alertTargets chan map[string][]*targetgroup.Group

	mu       sync.Mutex
	settings *config.Config
	applied  time.Time

	loops   sync.WaitGroup // of scrape and rules
	sending sync.WaitGroup // of the notifier
	started bool
}

// start opens the TSDB and assembles the rest. Nothing is scraped or evaluated before apply.
func (cfg *Config) start(log *slog.Logger, all prometheus.Registerer) (*running, error) {
	reg := selected{all}
	db, err := openGuarded(cfg, log, reg)
	if err != nil {
		return nil, err
	}
	r := &running{
		log: log, db: db, rulesURL: cfg.URL, keepRecorded: cfg.KeepRecorded,
		scrapeTargets: make(chan map[string][]*targetgroup.Group),
		alertTargets:  make(chan map[string][]*targetgroup.Group),
	}
	if err := cfg.assemble(r, reg, all); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return r, nil
}

func (cfg *Config) assemble(r *running, reg, all prometheus.Registerer) (err error) {
	r.timing = timing{now: cfg.Now, wall: cfg.Wall}
	if r.timing.wall == nil {
		r.timing.wall = time.Now
	}
	tap := remotewrite.NewTap(forgiving{r.db})
	stamped := timely{timing: r.timing, next: tap}
	r.writer, err = remotewrite.New(remotewrite.Config{
		Dir: cfg.RemoteWriteDir, DB: r.db, Tap: tap, Now: cfg.Now, Log: cfg.Log, Registerer: all,
		Damaged: cfg.Damaged,
	})
	if err != nil {
		return err
	}
	expressions := parser.NewParser(parser.Options{})
	options := promql.EngineOpts{
		Logger: r.log, MaxSamples: maxSamples, Timeout: ruleTimeout, LookbackDelta: lookback,
		NoStepSubqueryIntervalFn: func(int64) int64 { return evaluationInterval.Milliseconds() },
		EnableAtModifier:         true, EnableNegativeOffset: true, Parser: expressions,
	}
	r.engine = promql.NewEngine(options)
	options.MaxSamples, options.Timeout, options.Reg = maxAnswerSamples, queryTimeout, reg
	r.asked = promql.NewEngine(options)
	r.alerts = notifier.NewManager(&notifier.Options{QueueCapacity: 10_000, DrainOnShutdown: true, Registerer: reg, Do: sendAlerts}, model.UTF8Validation, r.log)
	if r.loader, err = newRuleLoader(cfg.Rules, cfg.RulesFile, expressions, r.log); err != nil {
		return err
	}
	external, err := url.Parse(cfg.URL)
	if err != nil {
		return fmt.Errorf("parse the URL of this daemon: %w", err)
	}
	r.rules = rules.NewManager(&rules.ManagerOptions{
		AppendableV2: stamped, Queryable: r.db, QueryFunc: rules.EngineQueryFunc(r.engine, r.db), NotifyFunc: r.notify,
		Context: context.Background(), ExternalURL: external, Registerer: reg, Logger: r.log,
		OutageTolerance: time.Hour, ForGracePeriod: 10 * time.Minute, ResendDelay: time.Minute, // Prometheus' defaults
		DefaultRuleQueryOffset: r.ruleQueryOffset, GroupLoader: r.loader, Parser: expressions,
	})
	r.self = newSelfScrape(cfg.Metrics, cfg.Instance)
	if r.scrape, err = scrape.NewManager(r.self.options(), r.log, nil, nil, stamped, reg); err != nil {
		return fmt.Errorf("assemble the scraper: %w", err)
	}
	var receiver storage.AppendableV2
	if cfg.Receiver {
		receiver = received{timely{timing: r.timing, next: tap, received: true}, r.db.Head().NumSeries, cfg.Instance}
	}
	r.handler, err = newLimiter(newHandler(cfg, r, receiver, expressions, reg), all)
	return err
}

// apply puts settings in force, and starts what they are about the first time.
func (r *running) apply(settings *config.Config) error {
	if err := r.writer.Apply(settings.GlobalConfig.ExternalLabels, settings.RemoteWriteConfigs); err != nil {
		return err
	}
	if err := r.alerts.ApplyConfig(settings); err != nil {
		return fmt.Errorf("apply alerting: %w", err)
	}
	if err := r.scrape.ApplyConfig(settings); err != nil {
		return fmt.Errorf("apply scrape_configs: %w", err)
	}
	if err := r.loader.reload(); err != nil {
		return err
	}
	interval := time.Duration(settings.GlobalConfig.EvaluationInterval)
	if err := r.rules.Update(interval, r.loader.files(), settings.GlobalConfig.ExternalLabels, r.rulesURL, r.timing.evaluate); err != nil {
		return fmt.Errorf("apply the rules: %w", err)
	}
	for _, endpoint := range settings.RemoteWriteConfigs {
		if r.keepRecorded && sendsRecorded(endpoint) { // which disturbs who records the same there
			r.log.Info("remote write sends what the rules here have recorded, as write_relabel_configs wants it", "endpoint", remotewrite.Name(endpoint))
		}
	}
	r.mu.Lock()
	r.settings, r.applied = settings, time.Now()
	r.mu.Unlock()
	r.begin()
	return r.resolve(settings)
}

// begin starts the loops, once.
func (r *running) begin() {
	if r.started {
		return
	}
	r.started = true
	r.sending.Go(func() { r.alerts.Run(r.alertTargets) })
	r.loops.Go(r.rules.Run)
	r.loops.Go(func() {
		if err := r.scrape.Run(r.scrapeTargets); err != nil {
			r.log.Error("the scraper ended", "err", err)
		}
	})
}

// resolve gives the targets to who scrapes and notifies them. They are all static, so that service discovery stays out.
func (r *running) resolve(settings *config.Config) error {
	scrapes, err := settings.GetScrapeConfigs()
	if err != nil {
		return fmt.Errorf("apply scrape_configs: %w", err)
	}
	targets := map[string][]*targetgroup.Group{}
	for _, s := range scrapes {
		targets[s.JobName] = groups(s.ServiceDiscoveryConfigs)
	}
	r.scrapeTargets <- targets
	r.awaitScrape(targets)
	managers := map[string][]*targetgroup.Group{}
	for name, a := range settings.AlertingConfig.AlertmanagerConfigs.ToMap() {
		managers[name] = groups(a.ServiceDiscoveryConfigs)
	}
	r.alertTargets <- managers
	return nil
}

// awaitScrape waits until the scraper has taken its targets, which it does in the background and not at all carefully: where it
// is stopped meanwhile, it begins to scrape afterwards.
func (r *running) awaitScrape(targets map[string][]*targetgroup.Group) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for range maxScrapeWaits {
		active, dropped, taken := r.scrape.TargetsActive(), r.scrape.TargetsDroppedCounts(), true
		for job, list := range targets {
			n := 0
			for _, g := range list {
				n += len(g.Targets)
			}
			taken = taken && (n == 0 || len(active[job])+dropped[job] > 0)
		}
		if taken {
			return
		}
		<-ticker.C
	}
	r.log.Warn("the scraper has not taken its targets yet")
}

func groups(configs discovery.Configs) (list []*targetgroup.Group) {
	for _, c := range configs {
		if static, ok := c.(discovery.StaticConfig); ok {
			list = append(list, static...)
		}
	}
	return list
}

func (r *running) current() (*config.Config, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settings, r.applied
}

func (r *running) ruleQueryOffset() time.Duration {
	settings, _ := r.current()
	if settings == nil {
		return 0
	}
	return time.Duration(settings.GlobalConfig.RuleQueryOffset)
}

// close stops in the order in which samples flow: after the scrapes and rules have ended nothing is appended any more, so
// the last flush of remote write is complete.
func (r *running) close(ctx context.Context) error {
	if r.started {
		r.scrape.Stop()
		r.rules.Stop()
		r.loops.Wait()
		r.alerts.Stop()
		r.sending.Wait()
	}
	flush, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	errs := []error{r.writer.Close(flush), r.self.close(), r.engine.Close(), r.asked.Close()}
	if err := r.closeTSDB(); err != nil {
		errs = append(errs, fmt.Errorf("close the TSDB: %w", err))
	}
	return errors.Join(errs...)
}

// closeTSDB closes the TSDB, which panics where it cannot write what it has in memory. All of that is in its log, so it is no error
// of the stop.
func (r *running) closeTSDB() error {
	defer func() {
		if cause := recover(); cause != nil {
			r.log.Warn("samples of the last hours could not be moved to their files; the next start reads them from the log", "err", cause)
		}
	}()
	return r.db.Close()
}

// hostname is what the machine calls itself, or a word where it does not.
func hostname() string {
	if name, err := os.Hostname(); err == nil {
		return name
	}
	return "unknown"
}
