package main

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"

	"usaged/api"
	"usaged/exporter/embedded"
	"usaged/rules/accept"
	"usaged/rules/health"
	"usaged/rules/quiet"
)

// healthConfig is what the command line says about where the score comes from.
type healthConfig struct {
	prometheusURL, httpConfigFile string
}

func (h *healthConfig) addFlags(flag func(name, help string) *kingpin.FlagClause) {
	flag("health.prometheus-url", "Prometheus that evaluates the rules of the score for all replicas, as https://prometheus.example.com. Remote write then keeps back what the rules here record. Default: the embedded one.").
		PlaceHolder("URL").StringVar(&h.prometheusURL)
	flag("health.http-config-file", "File with the token, headers or TLS that --health.prometheus-url needs, in the format of promtool's --http.config.file. Default: none.").
		StringVar(&h.httpConfigFile)
}

func (h *healthConfig) validate() error {
	if h.prometheusURL == "" && h.httpConfigFile != "" {
		return errors.New("--health.http-config-file: it is about --health.prometheus-url, which is not given")
	}
	return nil
}

// central returns the Prometheus of all replicas, nil where there is none.
func (h *healthConfig) central() (*health.Central, error) {
	if h.prometheusURL == "" {
		return nil, nil
	}
	return health.OpenCentral(h.prometheusURL, h.httpConfigFile)
}

// healthReader returns who tells the score, and has it read in the background. It is nil where nobody tells.
func (d *daemon) healthReader(open *closers) (api.HealthReader, error) {
	central, err := d.cfg.health.central()
	var reader *health.Reader
	switch {
	case err != nil:
		return nil, err
	case central != nil:
		reader = health.NewReader(central)
	case d.prometheus != nil:
		reader = health.NewReader(local{d.prometheus})
	default:
		return nil, nil
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		reader.Run(ctx)
	}()
	open.push("health", func(context.Context) error {
		stop()
		<-done
		return nil
	})
	return reader, nil
}

// local is the embedded Prometheus as one who tells the score.
type local struct{ *embedded.Prometheus }

// Query implements health.Querier.
func (l local) Query(ctx context.Context, expr string, at time.Time) (model.Vector, error) {
	vector, err := l.Prometheus.Query(ctx, expr, at)
	if errors.Is(err, embedded.ErrNotOpen) {
		err = health.ErrNotOpen
	}
	return vector, err
}

// openQuiet reads the planned quiet times, and what was accepted as a new normal.
func (d *daemon) openQuiet() (err error) {
	d.quiet, err = quiet.Open(quiet.Config{
		Path: filepath.Join(d.cfg.dataDir, "quiet.json"), Calendar: d.cfg.quietFile, Now: d.clock.Now, Damaged: d.damaged,
	})
	if err != nil {
		return err
	}
	d.accepted, err = accept.Open(accept.Config{Path: filepath.Join(d.cfg.dataDir, "accepted.json"), Now: d.clock.Now, Damaged: d.damaged})
	return err
}
