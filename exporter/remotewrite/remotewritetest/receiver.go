// Package remotewritetest has a receiver of remote write for tests. It speaks 1.0 and 2.0, counts how often every sample
// came, and can be away, refuse, or be as strict about order as a Prometheus without a window for samples out of order.
package remotewritetest

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// Sample is one sample as it was received.
type Sample struct {
	Value     float64
	Start     int64 // start timestamp, 2.0 only
	Histogram bool
	Times     int // how often it came
}

// Receiver is a receiver on a loopback port. It is safe for concurrent use.
type Receiver struct {
	URL string

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced with every request
	series   map[string]map[int64]*Sample
	newest   map[string]int64
	metadata map[string]string // help text by metric (2.0) or family (1.0)
	exemplar map[string]int    // by series
	requests map[int]int       // by status
	status   int               // answer this; 0: take everything
	strict   bool
	classic  bool
	header   http.Header // of the last request
}

// New starts a receiver, which ends with the test.
func New(tb testing.TB) *Receiver {
	r := &Receiver{
		changed: make(chan struct{}), series: map[string]map[int64]*Sample{}, newest: map[string]int64{}, metadata: map[string]string{},
		exemplar: map[string]int{}, requests: map[int]int{},
	}
	handler := remoteapi.NewWriteHandler(r, remoteapi.MessageTypes{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType})
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

// Answer has every request answered with a status, and nothing taken; 0 takes everything again.
func (r *Receiver) Answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// Strict has requests refused with 400, as a whole, that hold a sample older than the newest of its series, as Prometheus
// 2.42 does.
func (r *Receiver) Strict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strict = true
}

// NoHistograms has requests refused that hold a native histogram, with status 500 and as a whole, as Prometheus does before
// 3.0 unless it is told otherwise.
func (r *Receiver) NoHistograms() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.classic = true
}

// Store takes a request.
func (r *Receiver) Store(req *http.Request, kind remoteapi.WriteMessageType) (*remoteapi.WriteResponse, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	resp := remoteapi.NewWriteResponse()
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() {
		close(r.changed)
		r.changed = make(chan struct{})
	}()
	r.header = req.Header.Clone()
	refuse := func(status int, why string) (*remoteapi.WriteResponse, error) {
		r.requests[status]++
		resp.SetStatusCode(status)
		return resp, fmt.Errorf("%s", why)
	}
	if r.status != 0 {
		return refuse(r.status, "told to refuse")
	}
	content, err := decode(body, kind)
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	if r.strict && r.outOfOrder(content) {
		return refuse(http.StatusBadRequest, "out of order sample")
	}
	if r.classic && slices.ContainsFunc(content.samples, func(s received) bool { return s.Histogram }) {
		return refuse(http.StatusInternalServerError, "native histograms are disabled")
	}
	r.take(content)
	r.requests[http.StatusNoContent]++
	resp.Add(content.stats)
	return resp, nil
}

// request is what a request holds, of whichever version.
type request struct {
	samples   []received
	exemplars []string
	metadata  map[string]string
	stats     remoteapi.WriteResponseStats
}

type received struct {
	series string
	t      int64
	Sample
}

func decode(body []byte, kind remoteapi.WriteMessageType) (*request, error) {
	out := &request{metadata: map[string]string{}, stats: remoteapi.WriteResponseStats{}}
	var builder labels.ScratchBuilder
	if kind == remoteapi.WriteV1MessageType {
		var req prompb.WriteRequest
		if err := req.Unmarshal(body); err != nil {
			return nil, err
		}
		for _, ts := range req.Timeseries {
			name := ts.ToLabels(&builder, nil).String()
			for _, s := range ts.Samples {
				out.samples = append(out.samples, received{name, s.Timestamp, Sample{Value: s.Value}})
			}
			for _, h := range ts.Histograms {
				out.samples = append(out.samples, received{name, h.Timestamp, Sample{Value: h.Sum, Histogram: true}})
			}
			for range ts.Exemplars {
				out.exemplars = append(out.exemplars, name)
			}
		}
		for _, m := range req.Metadata {
			out.metadata[m.MetricFamilyName] = m.Help
		}
		return out, nil
	}
	var req writev2.Request
	if err := req.Unmarshal(body); err != nil {
		return nil, err
	}
	for _, ts := range req.Timeseries {
		ls, err := ts.ToLabels(&builder, req.Symbols)
		if err != nil {
			return nil, err
		}
		for _, s := range ts.Samples {
			out.samples = append(out.samples, received{ls.String(), s.Timestamp, Sample{Value: s.Value, Start: s.StartTimestamp}})
		}
		for _, h := range ts.Histograms {
			out.samples = append(out.samples, received{ls.String(), h.Timestamp, Sample{Value: h.Sum, Start: h.StartTimestamp, Histogram: true}})
		}
		for range ts.Exemplars {
			out.exemplars = append(out.exemplars, ls.String())
		}
		if ts.Metadata.HelpRef != 0 {
			out.metadata[ls.Get(model.MetricNameLabel)] = req.Symbols[ts.Metadata.HelpRef]
		}
		out.stats.Samples += len(ts.Samples)
		out.stats.Histograms += len(ts.Histograms)
		out.stats.Exemplars += len(ts.Exemplars)
	}
	return out, nil
}

// outOfOrder says whether Prometheus would refuse the request. The newest sample of a series may come again.
func (r *Receiver) outOfOrder(req *request) bool {
	return slices.ContainsFunc(req.samples, func(s received) bool { return s.t < r.newest[s.series] })
}

func (r *Receiver) take(req *request) {
	for _, s := range req.samples {
		if r.series[s.series] == nil {
			r.series[s.series] = map[int64]*Sample{}
		}
		known := r.series[s.series][s.t]
		if known == nil {
			known = &Sample{}
			r.series[s.series][s.t] = known
		}
		s.Times = known.Times + 1
		*known = s.Sample
		r.newest[s.series] = max(r.newest[s.series], s.t)
	}
	for _, series := range req.exemplars {
		r.exemplar[series]++
	}
	maps.Copy(r.metadata, req.metadata)
}

// Samples returns what came, by series and time in milliseconds.
func (r *Receiver) Samples() map[string]map[int64]Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]map[int64]Sample{}
	for name, samples := range r.series {
		out[name] = map[int64]Sample{}
		for t, s := range samples {
			out[name][t] = *s
		}
	}
	return out
}

// Repeated returns the samples that came more than once.
func (r *Receiver) Repeated() (list []string) {
	for series, samples := range r.Samples() {
		for t, s := range samples {
			if s.Times > 1 {
				list = append(list, fmt.Sprintf("%s at %d: %d times", series, t, s.Times))
			}
		}
	}
	return list
}

// Help returns the help text that came for a metric.
func (r *Receiver) Help(metric string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.metadata[metric]
}

// Exemplars returns how many exemplars of a series came.
func (r *Receiver) Exemplars(series string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exemplar[series]
}

// Requests returns how many requests were answered with a status.
func (r *Receiver) Requests(status int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests[status]
}

// Header returns the header of the last request.
func (r *Receiver) Header() http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.header
}

// Await waits until something is so, asking after every request.
func (r *Receiver) Await(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	deadline := time.After(time.Minute)
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if so() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			tb.Fatalf("not so after a minute: %s", what)
		}
	}
}
