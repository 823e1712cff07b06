package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"

	"usaged/aggregator/meter"
	"usaged/aggregator/store/redis"
	"usaged/api/auth"
	"usaged/api/quota"
	"usaged/exporter/embedded"
	"usaged/rules/price"
	"usaged/rules/quiet"
)

// config is what the command line and the environment say.
type config struct {
	listen        []string
	webConfigFile string
	metricsAuth   bool
	drainDelay    time.Duration
	maxConns      int // 0: as many as the limit of open files allows

	dataDir       string
	retentionDays int
	retentionSize units.Base2Bytes
	tokensFile    string
	issuersFile   string // empty: no JSON Web Tokens
	quotasFile    string // empty: the defaults
	metersFile    string
	quietFile     string
	pricesFile    string
	redis         redis.Config
	prometheus    prometheusConfig
	health        healthConfig

	memoryLimit units.Base2Bytes
	debugListen string
	log         promslog.Config

	checkConfig bool
	exit        bool // --help or --version have printed what was asked for
}

// maxRetentionDays keeps windows, and so answers, bounded.
const maxRetentionDays = 3660

// maxPartitions is more than a cluster of any sensible size needs.
const maxPartitions = 1024

// usageError is an error of the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// parseConfig reads flags and environment: flag before environment before default.
func parseConfig(args []string, stdout, stderr io.Writer) (*config, error) {
	cfg := &config{}
	app := kingpin.New("usaged", "Takes usage events, counts each exactly once, and speaks Prometheus natively.\n\n"+
		"Without any flag it listens on 127.0.0.1:8080, keeps everything in ./data, and makes its own tokens there.\n"+
		"Every flag has an environment variable: USAGE_ and the flag in capitals, with _ for . and -.")
	app.UsageWriter(stdout).ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	app.Version(version.Print("usaged"))
	app.Terminate(func(int) { cfg.exit = true })
	cfg.addFlags(app)
	if _, err := app.Parse(args); err != nil && !cfg.exit {
		return nil, &usageError{err}
	}
	if cfg.exit {
		return cfg, nil
	}
	if err := cfg.validate(); err != nil {
		return nil, &usageError{err}
	}
	if cfg.tokensFile == "" {
		cfg.tokensFile = filepath.Join(cfg.dataDir, "tokens.yml")
	}
	return cfg, nil
}

func (cfg *config) addFlags(app *kingpin.Application) {
	flag := func(name, help string) *kingpin.FlagClause {
		return app.Flag(name, help).Envar(envName(name))
	}
	flag("web.listen-address", "Address to listen on. Repeatable.").Default("127.0.0.1:8080").StringsVar(&cfg.listen)
	flag("web.config.file", "File with TLS settings, in the format of Prometheus' exporter toolkit. Default: no TLS.").StringVar(&cfg.webConfigFile)
	flag("web.metrics-auth", "Demand a viewer's or an admin's token for /metrics.").SetValue(newToggle("web.metrics-auth", &cfg.metricsAuth))
	flag("web.drain-delay", "How long to answer requests, with /-/ready saying 503, before stopping: the time that a load balancer needs to notice.").
		Default("0s").SetValue(&value[time.Duration]{"web.drain-delay", "a duration such as 10s", &cfg.drainDelay, time.ParseDuration})
	flag("web.max-connections", "Connections that may be open at a time; beyond them, idle ones are closed for new ones. Default: half of the files that the process may open, 4096 at most.").
		Default("0").SetValue(&value[int]{"web.max-connections", "a whole number", &cfg.maxConns, strconv.Atoi})
	flag("data.dir", "Directory of the journal, the embedded database and the tokens. Made where absent.").Default("./data").StringVar(&cfg.dataDir)
	flag("retention.days", "Days (UTC, today included) that usage can be asked for, and that events may be dated back.").
		Default("30").SetValue(&value[int]{"retention.days", "a whole number", &cfg.retentionDays, strconv.Atoi})
	flag("retention.size", "Size of the journal, as 10GB, beyond which its oldest events are deleted although they are inside the retention. 0: no limit.").
		Default("0").SetValue(&value[units.Base2Bytes]{"retention.size", "a size such as 10GB", &cfg.retentionSize, units.ParseBase2Bytes})
	flag("auth.tokens-file", "File with the tokens' names, roles and hashes. Default: tokens.yml in the data directory, which is made at the first start.").
		StringVar(&cfg.tokensFile)
	flag("auth.issuers-file", "File with the OpenID Connect providers whose JSON Web Tokens are accepted beside the tokens of the tokens file. Read again at a reload. Default: none.").
		StringVar(&cfg.issuersFile)
	flag("auth.quotas-file", "File with what each role or token may send and ask for, where the defaults do not suit. Read again at a reload. Default: none.").
		StringVar(&cfg.quotasFile)
	flag("meters.file", "File with more meters: what to count beside users, queries, dashboards and llm-tokens. Read again at a reload. Default: none.").
		StringVar(&cfg.metersFile)
	flag("quiet.file", "File with planned quiet times, in which fewer events are no cause for concern. Read again at a reload. Default: none.").
		StringVar(&cfg.quietFile)
	flag("prices.file", "Table of what tokens of language models cost: CSV with the columns model, prompt, completion. Read again at a reload. Default: none.").
		StringVar(&cfg.pricesFile)
	flag("redis.url", "Redis to keep the rollups in: redis://host:port, rediss:// for TLS, unix:///path, redis+sentinel://host,host/master, redis+cluster://host,host. Default: none, an embedded SQLite database.").
		PlaceHolder("URL").StringVar(&cfg.redis.URL)
	flag("redis.partitions", "Partitions of the rollups in Redis, fixed when they are first used. Default: what Redis says, or 1, or 16 for a cluster.").
		SetValue(&value[int]{"redis.partitions", "a whole number", &cfg.redis.Partitions, strconv.Atoi})
	flag("redis.password-file", "File with the password for Redis.").StringVar(&cfg.redis.PasswordFile)
	flag("redis.tls.ca-file", "Certificates to trust for rediss://. Default: the system's.").StringVar(&cfg.redis.TLS.CAFile)
	flag("redis.tls.cert-file", "Certificate to show to Redis.").StringVar(&cfg.redis.TLS.CertFile)
	flag("redis.tls.key-file", "Key of that certificate.").StringVar(&cfg.redis.TLS.KeyFile)
	flag("redis.tls.server-name", "Name that Redis' certificate must have. Default: the host in the URL.").StringVar(&cfg.redis.TLS.ServerName)
	cfg.prometheus.addFlags(flag)
	cfg.health.addFlags(flag)
	flag("memory.limit", "Memory, as 512MB, near which garbage is collected more often. Default: GOMEMLIMIT, or 90% of the container's limit, or none.").
		Default("0").SetValue(&value[units.Base2Bytes]{"memory.limit", "a size such as 512MB", &cfg.memoryLimit, units.ParseBase2Bytes})
	flag("debug.listen-address", "Address of a second listener with /debug/pprof and /metrics, both without authentication. Default: off.").
		StringVar(&cfg.debugListen)
	app.Flag("check-config", "Check flags and files, and exit.").BoolVar(&cfg.checkConfig)
	promslogflag.AddFlags(app, &cfg.log)
	for _, name := range []string{promslogflag.LevelFlagName, promslogflag.FormatFlagName} {
		app.GetFlag(name).Envar(envName(name))
	}
}

// value parses a flag, or its environment variable. Kingpin's own values don't name the flag in their errors, and take 1.9
// for a whole number.
type value[T any] struct {
	flag, what string
	to         *T
	parse      func(string) (T, error)
}

func (v *value[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return fmt.Errorf("--%s or %s: %q is not %s", v.flag, envName(v.flag), text, v.what)
	}
	*v.to = parsed
	return nil
}

func (v *value[T]) String() string { return fmt.Sprint(*v.to) }

// toggle is a flag that is true where it is given, without a value.
type toggle struct{ *value[bool] }

// IsBoolFlag is what kingpin asks.
func (toggle) IsBoolFlag() bool { return true }

// newToggle returns the value of a toggle.
func newToggle(flag string, to *bool) kingpin.Value {
	return toggle{&value[bool]{flag, "true or false", to, strconv.ParseBool}}
}

// envName returns the environment variable of a flag.
func envName(flag string) string {
	return "USAGE_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(flag))
}

// validate reports everything that is wrong with the values.
func (cfg *config) validate() error {
	var errs []error
	for _, address := range append([]string{cfg.debugListen}, cfg.listen...) {
		if _, port, err := net.SplitHostPort(address); address != "" && (err != nil || !isPort(port)) {
			errs = append(errs, fmt.Errorf("--web.listen-address or --debug.listen-address: %q is not host:port", address))
		}
	}
	if cfg.retentionDays < 1 || cfg.retentionDays > maxRetentionDays {
		errs = append(errs, fmt.Errorf("--retention.days: %d is outside 1…%d", cfg.retentionDays, maxRetentionDays))
	}
	if cfg.retentionSize < 0 {
		errs = append(errs, errors.New("--retention.size: must not be negative"))
	}
	if cfg.memoryLimit < 0 {
		errs = append(errs, errors.New("--memory.limit: must not be negative"))
	}
	if cfg.maxConns < 0 {
		errs = append(errs, errors.New("--web.max-connections: must not be negative"))
	}
	if cfg.drainDelay < 0 {
		errs = append(errs, errors.New("--web.drain-delay: must not be negative"))
	}
	if cfg.redis.Partitions < 0 || cfg.redis.Partitions > maxPartitions {
		errs = append(errs, fmt.Errorf("--redis.partitions: %d is outside 0…%d", cfg.redis.Partitions, maxPartitions))
	}
	if cfg.redis.URL == "" && (cfg.redis.Partitions != 0 || cfg.redis.PasswordFile != "" || cfg.redis.TLS != (redis.TLS{})) {
		errs = append(errs, errors.New("--redis.…: the other flags about Redis need --redis.url"))
	}
	if cfg.dataDir == "" {
		errs = append(errs, errors.New("--data.dir: must not be empty"))
	}
	errs = append(errs, cfg.prometheus.validate(), cfg.health.validate())
	return errors.Join(errs...)
}

// isPort says whether the system can listen on a port, a number or a service's name.
func isPort(port string) bool {
	_, err := net.LookupPort("tcp", port)
	return err == nil
}

// checkFiles checks the files that the configuration names, without making any.
func (cfg *config) checkFiles() error {
	if info, err := os.Stat(cfg.dataDir); err == nil && !info.IsDir() {
		return fmt.Errorf("--data.dir: %s is not a directory: name another", cfg.dataDir)
	}
	var errs []error
	if err := web.Validate(cfg.webConfigFile); err != nil {
		errs = append(errs, fmt.Errorf("--web.config.file: %w", err))
	}
	if _, err := meter.Load(cfg.metersFile); err != nil {
		errs = append(errs, err)
	}
	if _, err := auth.LoadTokens(cfg.tokensFile); err != nil && !(errors.Is(err, os.ErrNotExist) && cfg.ownTokens()) {
		errs = append(errs, err)
	}
	if cfg.issuersFile != "" {
		errs = append(errs, auth.CheckIssuers(cfg.issuersFile))
	}
	if _, err := quota.Load(cfg.quotasFile); err != nil {
		errs = append(errs, err)
	}
	if cfg.redis.URL != "" {
		errs = append(errs, redis.Check(cfg.redis))
	}
	errs = append(errs, quiet.Check(cfg.quietFile), price.Check(cfg.pricesFile))
	if _, err := cfg.health.central(); err != nil {
		errs = append(errs, err)
	}
	if cfg.prometheus.enabled {
		prometheus := cfg.embedded()
		prometheus.Log = slog.New(slog.DiscardHandler)
		errs = append(errs, embedded.Check(prometheus))
	}
	return errors.Join(errs...)
}

// ownTokens says that the tokens file is the one which is made at the first start.
func (cfg *config) ownTokens() bool {
	return filepath.Clean(cfg.tokensFile) == filepath.Join(cfg.dataDir, "tokens.yml")
}

// logger returns the process's logger.
func (cfg *config) logger(stderr io.Writer) *slog.Logger {
	cfg.log.Writer = stderr
	return promslog.New(&cfg.log)
}
