package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"

	"usaged/exporter/embedded"
	"usaged/rules"
)

// minPrometheusRetention is what the health score looks back: four weeks, and some days.
const minPrometheusRetention = 31 * 24 * time.Hour

// prometheusConfig is what the command line says about the embedded Prometheus.
type prometheusConfig struct {
	enabled               bool
	configFile, rulesFile string
	remoteWrite           []string
	alertmanagers         []string
	receiver              bool
	retention             model.Duration
	retentionSize         units.Base2Bytes
}

func (p *prometheusConfig) addFlags(flag func(name, help string) *kingpin.FlagClause) {
	flag("prometheus.enabled", "Run the embedded Prometheus: PromQL, recording rules, health score, alerts, remote write. false goes without.").
		Default("true").SetValue(&value[bool]{"prometheus.enabled", "true or false", &p.enabled, strconv.ParseBool})
	flag("config.file", "Prometheus configuration with any of global, scrape_configs (static_configs only), remote_write, alerting. Default: none.").
		StringVar(&p.configFile)
	flag("rules.file", "Prometheus rule file. A rule in it replaces all shipped rules of its name. Default: the shipped rules alone.").
		StringVar(&p.rulesFile)
	flag("remote-write.url", "URL that samples are sent to by remote write 1.0. Repeatable. For 2.0, authentication and TLS see --config.file.").
		PlaceHolder("URL").StringsVar(&p.remoteWrite)
	flag("alertmanager.url", "URL of an Alertmanager that alerts are sent to. Repeatable.").PlaceHolder("URL").StringsVar(&p.alertmanagers)
	flag("storage.tsdb.retention.time", "How long samples are kept, at least 31d.").
		Default("31d").SetValue(&value[model.Duration]{"storage.tsdb.retention.time", "a duration such as 31d", &p.retention, model.ParseDuration})
	flag("storage.tsdb.retention.size", "Size of the samples, as 5GB, beyond which the oldest are deleted early. 0: no limit.").
		Default("0").SetValue(&value[units.Base2Bytes]{"storage.tsdb.retention.size", "a size such as 5GB", &p.retentionSize, units.ParseBase2Bytes})
	flag("web.enable-remote-write-receiver", "Let holders of a producer's or an admin's token write samples by remote write.").
		SetValue(newToggle("web.enable-remote-write-receiver", &p.receiver))
}

func (p *prometheusConfig) validate() error {
	var errs []error
	if time.Duration(p.retention) < minPrometheusRetention {
		errs = append(errs, errors.New("--storage.tsdb.retention.time: must be at least 31d, because the health score compares with the past four weeks; --storage.tsdb.retention.size bounds the disk"))
	}
	if p.retentionSize < 0 {
		errs = append(errs, errors.New("--storage.tsdb.retention.size: must not be negative"))
	}
	if !p.enabled && (p.configFile != "" || p.rulesFile != "" || len(p.remoteWrite) > 0 || len(p.alertmanagers) > 0 || p.receiver) {
		errs = append(errs, errors.New("--prometheus.enabled=false: --config.file, --rules.file, --remote-write.url, --alertmanager.url and --web.enable-remote-write-receiver need the embedded Prometheus"))
	}
	return errors.Join(errs...)
}

// embedded returns the configuration of the embedded Prometheus, as far as the command line has it.
func (cfg *config) embedded() embedded.Config {
	p := &cfg.prometheus
	scheme := "http://"
	if cfg.webConfigFile != "" {
		scheme = "https://"
	}
	instance := instanceName(cfg.listen[0])
	return embedded.Config{
		Dir:             filepath.Join(cfg.dataDir, "tsdb"),
		RemoteWriteDir:  filepath.Join(cfg.dataDir, "remote-write"),
		Retention:       time.Duration(p.retention),
		MaxBytes:        int64(p.retentionSize),
		ConfigFile:      p.configFile,
		RemoteWriteURLs: p.remoteWrite, AlertmanagerURLs: p.alertmanagers,
		Rules: rules.FS, RulesFile: p.rulesFile,
		KeepRecorded: cfg.health.prometheusURL != "",
		Receiver:     p.receiver,
		Instance:     instance,
		URL:          scheme + instance + "/prometheus",
	}
}

// instanceName names this daemon in samples: host:port, where the host is not one that every machine has.
func instanceName(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	ip := net.ParseIP(host)
	if host == "" || host == "localhost" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, port)
}

// startPrometheus starts the embedded Prometheus. It opens in the background, so that events are accepted at once.
func (d *daemon) startPrometheus() (err error) {
	if !d.cfg.prometheus.enabled {
		d.log.Info("the embedded Prometheus is off: no PromQL, no recording rules, no health score, no alerts, no remote write")
		return nil
	}
	cfg := d.cfg.embedded()
	cfg.Metrics, cfg.Log, cfg.Registerer = d.metrics.Uncached(), d.log, d.registry
	cfg.Damaged = d.damaged
	cfg.Now, cfg.Deletion = d.clock.Now, d.clock.Deletion
	d.prometheus, err = embedded.Open(cfg)
	return err
}

// closePrometheus is a step of the stop.
func (d *daemon) closePrometheus(ctx context.Context) error {
	if d.prometheus == nil {
		return nil
	}
	return d.prometheus.Close(ctx)
}

// prometheusHandler answers /prometheus/, or is nil where there is no Prometheus.
func (d *daemon) prometheusHandler() http.Handler {
	if d.prometheus == nil {
		return nil
	}
	return d.prometheus
}
