package embedded

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/grafana/regexp"
	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
	"github.com/prometheus/common/version"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	webapi "github.com/prometheus/prometheus/web/api/v1"

	"usaged/exporter/remotewrite"
)

// apiPath is where Prometheus' HTTP API is, below which its clients expect it.
const apiPath = "/prometheus/api/v1"

// noOrigin matches no origin: a page of another host may not read answers in its visitors' browsers. Without an expression the API
// panics at every request that has an Origin header.
var noOrigin = regexp.MustCompile(`[^\s\S]`)

// newHandler assembles the HTTP API. Its constructor takes everything by position; what this daemon does not have is nil or
// off: administration, search, OTLP, remote read's limits are Prometheus' defaults.
func newHandler(cfg *Config, r *running, receiver storage.AppendableV2, expressions parser.Parser, reg prometheus.Registerer) http.Handler {
	started := time.Now()
	external, _ := url.Parse(cfg.URL) // assemble has parsed it
	gatherer, _ := cfg.Registerer.(prometheus.Gatherer)
	api := webapi.NewAPI(
		r.asked, r.db, receiver, r.db,
		func(context.Context) webapi.ScrapePoolsRetriever { return r.scrape },
		func(context.Context) webapi.TargetRetriever { return r.scrape },
		func(context.Context) webapi.AlertmanagerRetriever { return r.alerts },
		func() config.Config { return shown(r) },
		map[string]string{
			"storage.tsdb.retention.time":      model.Duration(cfg.Retention).String(),
			"web.enable-remote-write-receiver": fmtBool(cfg.Receiver),
		},
		webapi.GlobalURLOptions{ListenAddress: cfg.Instance, Host: external.Host, Scheme: external.Scheme},
		func(f http.HandlerFunc) http.HandlerFunc { return f },
		stats{r.db}, cfg.Dir,
		false,    // administration of the TSDB
		false, 0, // search
		r.log,
		func(context.Context) webapi.RulesRetriever { return r.rules },
		maxAnswerSamples, 1, 1048576, // remote read: samples, concurrency, bytes in a frame
		false, // agent
		noOrigin,
		func() (webapi.RuntimeInfo, error) { return r.runtimeInfo(cfg, started), nil },
		&webapi.PrometheusVersion{
			Version: prometheusVersion(), Revision: version.GetRevision(), Branch: version.Branch,
			BuildUser: version.BuildUser, BuildDate: version.BuildDate, GoVersion: version.GoVersion,
		},
		func() []notifications.Notification { return nil },
		func() (<-chan notifications.Notification, func(), bool) { return nil, func() {}, false },
		gatherer, reg, nil,
		cfg.Receiver, remoteapi.MessageTypes{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType},
		false, false, false, // OTLP
		lookback,
		false, // labels of types and units
		true,  // metadata of what is received
		nil,
		features.NewRegistry(),
		webapi.OpenAPIOptions{ExternalURL: cfg.URL, Version: prometheusVersion()},
		expressions,
		false, // cost of queries
		queryTimeout,
	)
	router := route.New()
	api.Register(router)
	mux := http.NewServeMux()
	mux.Handle(apiPath+"/", http.StripPrefix(apiPath, router))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		respondError(w, http.StatusNotFound, "not_found", "nothing is here: the HTTP API of Prometheus begins at "+apiPath+"/")
	})
	return r.timing.handle(mux)
}

// shown returns the configuration in force without what may be a secret: viewers can read it.
func shown(r *running) config.Config {
	settings, _ := r.current()
	copied := *settings
	copied.RemoteWriteConfigs = nil
	for _, endpoint := range settings.RemoteWriteConfigs {
		copied.RemoteWriteConfigs = append(copied.RemoteWriteConfigs, remotewrite.Redacted(endpoint))
	}
	return copied
}

// respondError answers as Prometheus does, whose clients ask here.
func respondError(w http.ResponseWriter, status int, kind, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"status": "error", "errorType": kind, "error": text}) // nobody is left to tell
}

func (r *running) runtimeInfo(cfg *Config, started time.Time) webapi.RuntimeInfo {
	cwd, _ := os.Getwd()
	_, applied := r.current()
	return webapi.RuntimeInfo{
		StartTime: started, CWD: cwd, Hostname: hostname(), ServerTime: time.Now().UTC(), ReloadConfigSuccess: true, LastConfigTime: applied,
		GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0), GOMEMLIMIT: debug.SetMemoryLimit(-1),
		GOGC: os.Getenv("GOGC"), GODEBUG: os.Getenv("GODEBUG"), StorageRetention: model.Duration(cfg.Retention).String(),
	}
}

// prometheusVersion is the version of the module, by which clients tell what they may ask.
func prometheusVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/prometheus/prometheus" { // v0.316.0 is 3.16.0
			major, rest, _ := strings.Cut(strings.TrimPrefix(m.Version, "v0."), ".")
			if len(major) > 2 {
				return major[:1] + "." + major[1:] + "." + rest
			}
		}
	}
	return "unknown"
}

func fmtBool(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// stats is what the API asks of a TSDB beside queries.
type stats struct{ *tsdb.DB }

func (s stats) Stats(label string, limit int) (*tsdb.Stats, error) {
	return s.Head().Stats(label, limit), nil
}

func (s stats) WALReplayStatus() (tsdb.WALReplayStatus, error) { return tsdb.WALReplayStatus{}, nil }

func (s stats) BlockMetas() ([]tsdb.BlockMeta, error) { return s.DB.BlockMetas(), nil }
