package api

import (
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator/event"
	"usaged/api/quota"
)

// ingestName and tailName are the handler labels of POST and GET events.
const (
	ingestName = "events"
	tailName   = "tail"
)

// apiMetrics are the metrics of the package. Labels are bounded: handlers are the names in routes, codes are HTTP
// statuses, reasons are the codes of classes.
type apiMetrics struct {
	set *metrics.Set

	events         *metrics.Counter
	bodyBytes      *metrics.Counter
	rejected       [numClasses]*metrics.Counter // nil where a class is not of ingest
	rejectedEvents [numClasses]*metrics.Counter // the same, for classes that are found after the events were read
	panics         *metrics.Counter
	cut            *metrics.Counter
	quotas         quotaCounters
	namesUnsaved   *metrics.Counter
	denied         [numClasses]*metrics.Counter // nil where a class is not of class.denied
	inflight       atomic.Int64
	tailStreams    atomic.Int64
	tailEvents     *metrics.Counter
	tailMissing    *metrics.Counter
	tailOvertaken  *metrics.Counter

	ingestSeconds  prometheus.Histogram
	ingestEvents   prometheus.Histogram
	requestSeconds *prometheus.HistogramVec
}

var help = map[string]string{
	"usaged_http_requests_total":     "HTTP requests answered, by handler and status code.",
	"usaged_http_requests_in_flight": "HTTP requests being answered.",
	"usaged_http_connections":        "Connections of clients that are open.",
	"usaged_http_connections_limit":  "Limit of usaged_http_connections. At it, the connection that has waited longest for its client is closed for a new one.",
	"usaged_http_connections_closed_total": "Connections that were waiting for their clients and were closed because usaged_http_connections was at its " +
		"limit.",
	"usaged_http_panics_total":        "Panics of HTTP handlers, each answered with 500 or a cut connection.",
	"usaged_http_responses_cut_total": "Answers that were cut off because the client went away or read too slowly.",
	"usaged_ingest_events_total":      "Events answered with 202, duplicates included.",
	"usaged_ingest_body_bytes_total":  "Bytes of request bodies with events, decompressed.",
	"usaged_ingest_rejected_total":    "Requests with events that were refused, by reason (the code of the problem).",
	"usaged_ingest_rejected_events_total": "Valid events that were refused, by reason. The events of a faulty body are not " +
		"counted.",
	"usaged_ingest_inflight_bytes":     "Memory taken by request bodies that are being received or accepted.",
	"usaged_tail_streams":              "Answers that stream accepted events at this moment.",
	"usaged_tail_streams_limit":        "Limit of usaged_tail_streams; a request for one more is answered with 503.",
	"usaged_tail_events_total":         "Events sent in streams of accepted events.",
	"usaged_tail_missing_events_total": "Events that streams had to leave out because the journal is damaged, counted for each stream.",
	"usaged_tail_overtaken_total":      "Streams of accepted events that read so slowly that retention deleted what they had not read.",
	"usaged_names_over_quota_total": "Events of which a name (quota: new_types, new_labels or new_references) is counted under __other__ because the token has used up its new " +
		"names of the day, by token (JSON Web Tokens by issuer).",
	"usaged_http_denied_total":   "Requests refused because of who sent them, by reason (the code of the problem). One of each reason is logged in ten seconds.",
	"usaged_names_unsaved_total": "Failures to write down what tokens have used up of their new names of the day.",
	"usaged_quota_exceeded_total": "Requests refused because a token's quota was spent, by token (JSON Web Tokens by issuer) and quota: events, bytes, ids, reads, tails, or memory for " +
		"bodies on their way.",
	"usaged_ingest_inflight_limit_bytes": "Limit of usaged_ingest_inflight_bytes; requests beyond it are answered with 503.",
}

// Help returns the help texts of the metrics that the API keeps in Config.Set, by name.
func Help() map[string]string {
	texts := make(map[string]string, len(help))
	for name, text := range help {
		texts[name] = text
	}
	return texts
}

func newMetrics(set *metrics.Set, reg prometheus.Registerer, b *bodies) (*apiMetrics, error) {
	m := &apiMetrics{
		set:       set,
		events:    set.GetOrCreateCounter("usaged_ingest_events_total"),
		bodyBytes: set.GetOrCreateCounter("usaged_ingest_body_bytes_total"),
		panics:    set.GetOrCreateCounter("usaged_http_panics_total"),
		cut:       set.GetOrCreateCounter("usaged_http_responses_cut_total"),

		quotas:       quotaCounters{set: set, names: map[string]struct{}{}},
		namesUnsaved: set.GetOrCreateCounter("usaged_names_unsaved_total"),

		tailEvents:    set.GetOrCreateCounter("usaged_tail_events_total"),
		tailMissing:   set.GetOrCreateCounter("usaged_tail_missing_events_total"),
		tailOvertaken: set.GetOrCreateCounter("usaged_tail_overtaken_total"),
	}
	for c, info := range classes {
		if class(c).denied() {
			m.denied[c] = set.GetOrCreateCounter(fmt.Sprintf("usaged_http_denied_total{reason=%q}", info.code))
		}
		if info.ingest {
			m.rejected[c] = set.GetOrCreateCounter(fmt.Sprintf("usaged_ingest_rejected_total{reason=%q}", info.code))
		}
	}
	for _, kind := range quota.NameKinds {
		m.quotas.namesCounter(event.Other, kind)
	}
	for _, kind := range quota.Kinds {
		m.quotas.counter(event.Other, kind)
	}
	for _, c := range []class{unavailable, outcomeUnknown, internal, quotaExceeded} {
		m.rejectedEvents[c] = set.GetOrCreateCounter(
			fmt.Sprintf("usaged_ingest_rejected_events_total{reason=%q}", classes[c].code))
	}
	set.GetOrCreateGauge("usaged_http_requests_in_flight", func() float64 { return float64(m.inflight.Load()) })
	set.GetOrCreateGauge("usaged_tail_streams", func() float64 { return float64(m.tailStreams.Load()) })
	set.GetOrCreateGauge("usaged_tail_streams_limit", func() float64 { return maxTails })
	set.GetOrCreateGauge("usaged_ingest_inflight_bytes", func() float64 { return float64(b.all.used.Load()) })
	set.GetOrCreateGauge("usaged_ingest_inflight_limit_bytes", func() float64 { return float64(b.all.limit) })
	return m, m.register(reg)
}

func (m *apiMetrics) register(reg prometheus.Registerer) error {
	m.ingestSeconds = prometheus.NewHistogram(histogramOpts("usaged_ingest_duration_seconds",
		"Time from the header of a POST of events to its answer, reading the body and making it durable included.",
		secondsBuckets))
	m.ingestEvents = prometheus.NewHistogram(histogramOpts("usaged_ingest_request_events",
		"Number of events of each accepted request.", []float64{0, 1, 10, 100, 1000, 10_000}))
	m.requestSeconds = prometheus.NewHistogramVec(histogramOpts("usaged_http_request_duration_seconds",
		"Time to answer all other HTTP requests, by handler.", secondsBuckets), []string{"handler"})
	for _, c := range []prometheus.Collector{m.ingestSeconds, m.ingestEvents, m.requestSeconds} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// secondsBuckets serve an ingest of about a millisecond as well as a summary of about a second.
var secondsBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// histogramOpts gives a histogram that is native to servers that ask for it and classic to all others.
func histogramOpts(name, text string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: text, Buckets: buckets,
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 160,
	}
}

// codeCounters counts the requests of one handler by status, without a look-up where the status was seen before.
type codeCounters struct {
	set     *metrics.Set
	handler string
	byCode  [600]atomic.Pointer[metrics.Counter]
}

// usualCodes exist from the start, so that their rates begin at zero.
var usualCodes = map[string][]int{
	ingestName: {http.StatusAccepted, http.StatusServiceUnavailable},
	"other":    {http.StatusNotFound, http.StatusMethodNotAllowed},

	"quiet-add": {http.StatusCreated},
}

func (m *apiMetrics) codes(handler string) *codeCounters {
	c := &codeCounters{set: m.set, handler: handler}
	usual := usualCodes[handler]
	if usual == nil {
		usual = []int{http.StatusOK}
	}
	for _, code := range usual {
		c.counter(code)
	}
	return c
}

func (c *codeCounters) inc(code int) {
	if code < 0 || code >= len(c.byCode) {
		code = 0
	}
	if counter := c.byCode[code].Load(); counter != nil {
		counter.Inc()
		return
	}
	c.counter(code).Inc()
}

func (c *codeCounters) counter(code int) *metrics.Counter {
	counter := c.set.GetOrCreateCounter(fmt.Sprintf(`usaged_http_requests_total{handler=%q,code="%d"}`, c.handler, code))
	c.byCode[code].Store(counter)
	return counter
}
