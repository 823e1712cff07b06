package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// receiver is a real Prometheus that samples are sent to.
type receiver struct {
	name string
	*realPrometheus
	histograms bool // whether it takes native ones
}

// startReceivers starts a Debian Prometheus as it comes, one that takes native histograms, and the one of our module, and
// returns the flags with which a daemon sends to all: to the first as the documentation says first, by one flag.
func startReceivers(t *testing.T, interval time.Duration) (all []receiver, flags []string) {
	t.Helper()
	const config = "global: {}\n"
	all = []receiver{
		{"2.42 by 1.0", newPrometheus(t, debianPrometheus, config), false},
		{"2.42 with native histograms by 1.0", newPrometheus(t, debianPrometheus, config, "--enable-feature=native-histograms"), true},
		{"v0.316 by 2.0", newPrometheus(t, modulePrometheus, config), true},
	}
	for _, r := range all {
		r.start()
		t.Logf("%s: %s", r.name, r.version())
	}
	const file = `
global: {scrape_interval: %[1]s, scrape_timeout: %[1]s, evaluation_interval: %[1]s}
remote_write:
- {url: %[2]s, send_native_histograms: true}
- {url: %[3]s, send_native_histograms: true, protobuf_message: io.prometheus.write.v2.Request}
`
	return all, []string{
		"--remote-write.url=" + all[0].writeURL(),
		prometheusFile(t, fmt.Sprintf(file, interval, all[1].writeURL(), all[2].writeURL())),
	}
}

// scraped waits until a receiver has so many scrapes, in each job.
func (r receiver) scraped(n int) {
	r.tb.Helper()
	eventually(r.tb, fmt.Sprintf("%d scrapes at %s", n, r.name), func() error {
		got, err := r.value("min(count_over_time(up[1h]))")
		if err == nil && int(got) < n {
			err = fmt.Errorf("%v", got)
		}
		return err
	})
}

// TestReceiversAway stops real receivers, kills the daemon with SIGKILL while they are away, and starts all again. Each of
// them has every sample that the daemon has, once, and no other.
func TestReceiversAway(t *testing.T) {
	t.Parallel()
	interval, outage := time.Second, 10*time.Second
	if full() {
		interval, outage = 15*time.Second, time.Minute
	}
	receivers, flags := startReceivers(t, interval)
	d := newInstance(t, flags...)
	d.start()
	d.post(`{"event_type":"a","user_id":"ann"}`)
	for _, r := range receivers {
		r.scraped(2)
	}
	for _, r := range receivers {
		r.stop()
	}
	pass(outage / 2)
	d.post(`{"event_type":"a","user_id":"ann"}`)
	d.kill()
	killed := time.Now()
	d.start()
	d.post(`{"event_type":"b","user_id":"ann"}`)
	pass(outage / 2)
	for _, r := range receivers {
		r.start()
	}
	d.becomes(fmt.Sprintf("count_over_time(up[1h]) >= bool %d", 2+int(outage/interval)), "1")
	for _, r := range receivers {
		r.scraped(2 + int(outage/interval))
	}
	d.stop() // which sends what is left
	for _, r := range receivers {
		r.stop()
	}
	numbers, histograms := readTSDB(t, d.dir+"/tsdb")
	noGap(t, numbers, interval, killed)
	for _, r := range receivers {
		r.compare(t, numbers, histograms)
	}
}

// noGap looks at the scrapes of the daemon itself: none is missing but, perhaps, one at the kill.
func noGap(t *testing.T, numbers stored, interval time.Duration, killed time.Time) {
	t.Helper()
	for series, samples := range numbers {
		if !strings.HasPrefix(series, `{__name__="up"`) {
			continue
		}
		times := slices.Sorted(maps.Keys(samples))
		for i, at := range times[1:] {
			limit := interval + interval/2
			if before := times[i]; before <= killed.UnixMilli() && at >= killed.UnixMilli() {
				limit += interval
			}
			if i == len(times)-2 {
				break // the last one is of the stop, whenever that is
			}
			if gap := time.Duration(at-times[i]) * time.Millisecond; gap > limit {
				t.Errorf("no scrape for %s, want one every %s", gap, interval)
			}
		}
		t.Logf("%d scrapes, every %s", len(times), interval)
		return
	}
	t.Error("the daemon has no scrape of itself")
}

// compare compares what a receiver has with what was sent.
func (r receiver) compare(t *testing.T, numbers, histograms stored) {
	t.Helper()
	gotNumbers, gotHistograms := readTSDB(t, r.tsdb())
	if !r.histograms {
		histograms = stored{}
	}
	for _, kind := range []struct {
		what      string
		want, got stored
	}{{"samples", numbers, gotNumbers}, {"histograms", histograms, gotHistograms}} {
		lacks, extra := kind.want.lacking(kind.got), kind.got.lacking(kind.want)
		t.Logf("%s: %d %s of %d series, %d missing, %d that were not sent", r.name, kind.got.count(), kind.what, len(kind.got), len(lacks), len(extra))
		if len(lacks)+len(extra) > 0 {
			t.Errorf("%s: missing %.1000q, not sent %.1000q", r.name, lacks[:min(3, len(lacks))], extra[:min(3, len(extra))])
		}
	}
}

// scrapeJobs scrape one daemon as text, as OpenMetrics, and with native histograms, which come by protobuf.
const scrapeJobs = `
global: {scrape_interval: 5s, scrape_timeout: 5s}
scrape_configs:
- {job_name: openmetrics, static_configs: [{targets: ["%[1]s"]}]}
- {job_name: text, scrape_protocols: [PrometheusText0.0.4], static_configs: [{targets: ["%[1]s"]}]}
- {job_name: protobuf, scrape_protocols: [PrometheusProto], scrape_native_histograms: true, static_configs: [{targets: ["%[1]s"]}]}
`

// oldScrapeJobs is for a Prometheus that has its protocols by a feature flag.
const oldScrapeJobs = `
global: {scrape_interval: 5s, scrape_timeout: 5s}
scrape_configs:
- {job_name: any, static_configs: [{targets: ["%s"]}]}
`

// TestScrapedByPrometheus lets real Prometheis scrape /metrics while events of many kinds come in: none fails, none loses a
// sample, and none has anything to say about it in its log.
func TestScrapedByPrometheus(t *testing.T) {
	t.Parallel()
	scrapes := 4
	if full() {
		scrapes = 120 // ten minutes
	}
	d := newInstance(t)
	d.start()
	address := strings.TrimPrefix(d.url, "http://")
	all := []receiver{
		{"2.42", newPrometheus(t, debianPrometheus, fmt.Sprintf(oldScrapeJobs, address)), false},
		{"2.42 by protobuf", newPrometheus(t, debianPrometheus, fmt.Sprintf(oldScrapeJobs, address), "--enable-feature=native-histograms"), true},
		{"v0.316", newPrometheus(t, modulePrometheus, fmt.Sprintf(scrapeJobs, address)), true},
	}
	for _, p := range all {
		p.start()
		t.Logf("%s: %s", p.name, p.version())
	}
	for i := range scrapes {
		for j := range 20 {
			d.post(fmt.Sprintf(`{"event_type":"type \"%d\" ü","user_id":"u%d","source":"s%d","metadata":{"model":"m%d","prompt_tokens":"2","outcome":"success","policy_filters":"p%d"}}`,
				(20*i+j)%250, j, i, i, i))
		}
		for _, p := range all {
			p.scraped(i + 1)
		}
	}
	for _, p := range all {
		for _, expr := range []string{"min(min_over_time(up[1h]))", "min(min_over_time(scrape_samples_scraped[1h])) > bool 100"} {
			if got, err := p.value(expr); err != nil || got != 1 {
				t.Errorf("%s: %s is %v, %v; want 1", p.name, expr, got, err)
			}
		}
		complaints := p.complaints()
		p.stop() // which it may log as a warning
		numbers, histograms := readTSDB(t, p.tsdb())
		if (histograms.count() > 0) != p.histograms {
			t.Errorf("%s: %d native histograms", p.name, histograms.count())
		}
		t.Logf("%s: %d samples, %d native histograms, %d warnings", p.name, numbers.count(), histograms.count(), len(complaints))
		for _, line := range complaints {
			t.Errorf("%s: %s", p.name, line)
		}
	}
}
