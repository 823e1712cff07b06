package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"usaged/aggregator/store/redis/redistest"
)

// TestHealthOfReplicas has two daemons on one Redis, of which each sees a part of the usage alone, and a third that scrapes
// both. One of the two asks the third, until that is gone.
func TestHealthOfReplicas(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	scrape := filepath.Join(t.TempDir(), "prometheus.yml")
	write := func(text string) { rewriteFile(t, scrape, secondly+text) }
	write("")
	rules := fastRules(t, "health.yml")
	central := newInstance(t, "--config.file="+scrape, rules)
	central.start()
	asks := newRedisInstance(t, srv.URL(), "--health.prometheus-url="+central.url+"/prometheus", "--health.http-config-file="+viewerOf(t, central))
	asks.start()
	asks.post(outcomes("a", 10, 0)...)
	asks.settle()
	alone := newRedisInstance(t, srv.URL(), prometheusFile(t, secondly), rules)
	alone.start()
	alone.post(outcomes("a", 10, 0)...)
	h := alone.healthBecomes("two replicas, one of which is not scraped", unknownFor("replicas"))
	if !strings.Contains(h.Text, "--health.prometheus-url") {
		t.Errorf("the reason does not say what to do: %s", h.Text)
	}
	alone.becomes("max(usaged_producers_alive)", "2")

	write(fmt.Sprintf("scrape_configs: [{job_name: replicas, static_configs: [{targets: [%q, %q]}]}]\n",
		strings.TrimPrefix(alone.url, "http://"), strings.TrimPrefix(asks.url, "http://")))
	central.signal(syscall.SIGHUP)
	central.becomes(`count(up{job="replicas"} == 1)`, "2")
	central.becomes(`sum(usage:timely_event_outcomes:total{event_type="a"})`, "20") // so that there is a sample before the next
	for _, d := range []*instance{alone, asks} {
		d.post(outcomes("a", 20, 0)...)
	}
	central.becomes(`sum(usage_event_outcomes_total{event_type="a"})`, "60")
	asks.healthBecomes("the score of both", func(h *subject) bool {
		return h.Mode == "unjudged" && strings.HasPrefix(h.Types["a"].Components["failures"].Text, "No failures among ")
	})
	alone.healthBecomes("its own", unknownFor("replicas"))

	central.kill()
	eventually(t, "503 that names the third", func() error { // after the report that is at hand
		a := asks.do(http.MethodGet, healthPath, "admin", nil, nil)
		if a.status != http.StatusServiceUnavailable || !strings.Contains(string(a.body), "the Prometheus at "+healthURL(asks)) {
			return fmt.Errorf("status %d, %s", a.status, a.body)
		}
		return nil
	})
}

// healthURL is the Prometheus that a daemon asks.
func healthURL(d *instance) string {
	for _, arg := range d.args {
		if url, ok := strings.CutPrefix(arg, "--health.prometheus-url="); ok {
			return url
		}
	}
	return ""
}
