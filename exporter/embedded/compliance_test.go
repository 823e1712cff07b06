package embedded_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/compliance/remotewrite/sender"

	"usaged/exporter/embedded"
)

// complianceFile scrapes the suite's target and sends its samples, and only those, to the suite's receiver.
const complianceFile = `
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: %[1]s
  static_configs: [{targets: ["%[2]s"]}]
remote_write:
- url: %[3]s
  protobuf_message: %[4]s
  send_exemplars: true
  send_native_histograms: true
  metadata_config: {send: false}
  queue_config: {batch_send_deadline: 100ms}
  write_relabel_configs:
  - {source_labels: [job], regex: %[1]s, action: keep}
`

// complianceSender is a Prometheus as the suite starts and stops one.
type complianceSender struct{ t *testing.T }

func (complianceSender) Name() string { return "usaged" }

func (s complianceSender) Run(ctx context.Context, o sender.Options) error {
	r := newRig(s.t, fmt.Sprintf(complianceFile, o.ScrapeTargetJobName, o.ScrapeTargetHostPort, o.RemoteWriteEndpointURL, o.RemoteWriteMessage))
	registry := prometheus.NewRegistry()
	r.cfg.Metrics, r.cfg.Registerer = promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), registry
	prom, err := embedded.Open(r.cfg)
	if err != nil {
		return err
	}
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return prom.Close(stop)
}

// TestCompliance runs Prometheus' compliance suite for senders of remote write.
func TestCompliance(t *testing.T) {
	t.Parallel()
	sender.RunTests(t, complianceSender{t}, sender.ComplianceTests())
}
