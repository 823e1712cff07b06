package remotewrite_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"usaged/exporter/remotewrite"
	"usaged/exporter/remotewrite/remotewritetest"
)

const interval = 15 * time.Second

// world is a TSDB with a clock of its own, and a writer on it.
type world struct {
	t        *testing.T
	clock    atomic.Int64 // milliseconds
	dir      string
	db       *tsdb.DB
	tap      *remotewrite.Tap
	writer   *remotewrite.Writer
	registry *prometheus.Registry
}

func newWorld(t *testing.T) *world {
	t.Helper()
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = (48 * time.Hour).Milliseconds()
	opts.EnableExemplarStorage, opts.MaxExemplars = true, 100
	opts.EnableSTStorage, opts.EnableHistogramSTEncoding, opts.FloatChunkEncoding = true, true, chunkenc.EncXOR2
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, dir: t.TempDir(), db: db}
	w.clock.Store(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixMilli())
	w.open()
	return w
}

// open makes a writer, as a start of the daemon does.
func (w *world) open() {
	w.t.Helper()
	w.tap, w.registry = remotewrite.NewTap(w.db), prometheus.NewRegistry()
	var err error
	w.writer, err = remotewrite.New(remotewrite.Config{
		Dir: w.dir, DB: w.db, Tap: w.tap,
		Now: func() time.Time { return time.UnixMilli(w.clock.Load()) },
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Registerer: w.registry,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	writer := w.writer
	w.t.Cleanup(func() { w.close(writer, 0) })
}

// close closes a writer, which may be closed already. With no time it is a crash: what is under way is cut off.
func (w *world) close(writer *remotewrite.Writer, flush time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), flush)
	defer cancel()
	if err := writer.Close(ctx); err != nil {
		w.t.Error(err)
	}
}

func (w *world) apply(endpoints ...*config.RemoteWriteConfig) {
	w.t.Helper()
	if err := w.writer.Apply(labels.FromStrings("replica", "a"), endpoints); err != nil {
		w.t.Fatal(err)
	}
}

func endpoint(t *testing.T, to string, version remoteapi.WriteMessageType) *config.RemoteWriteConfig {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	e := config.DefaultRemoteWriteConfig
	e.URL, e.ProtobufMessage = &commonconfig.URL{URL: u}, version
	e.SendExemplars, e.SendNativeHistograms = true, true
	e.QueueConfig.BatchSendDeadline = model.Duration(5 * time.Millisecond)
	e.QueueConfig.MinBackoff, e.QueueConfig.MaxBackoff = model.Duration(time.Millisecond), model.Duration(5*time.Millisecond)
	return &e
}

// scrape moves the clock by an interval and appends a sample of so many series.
func (w *world) scrape(series int) int64 {
	w.t.Helper()
	now := w.clock.Add(interval.Milliseconds())
	w.append(now, series)
	return now
}

func (w *world) append(at int64, series int) {
	w.t.Helper()
	app := w.tap.AppenderV2(context.Background())
	for i := range series {
		ls := labels.FromStrings("__name__", "m", "i", fmt.Sprint(i))
		if _, err := app.Append(0, ls, 0, at, float64(at), nil, nil, storage.AOptions{}); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := app.Commit(); err != nil {
		w.t.Fatal(err)
	}
}

// exemplar appends an exemplar and no sample.
func (w *world) exemplar() {
	w.t.Helper()
	app, ok := w.tap.AppenderV2(context.Background()).(interface {
		storage.AppenderV2
		storage.ExemplarAppenderV2
	})
	if !ok {
		w.t.Fatal("the appender takes no exemplars")
	}
	e := exemplar.Exemplar{Labels: labels.FromStrings("trace", "x"), Value: 1, Ts: w.clock.Load(), HasTs: true}
	if _, err := app.AppendExemplars(0, labels.FromStrings("__name__", "m", "i", "0"), []exemplar.Exemplar{e}); err != nil {
		w.t.Fatal(err)
	}
	if err := app.Commit(); err != nil {
		w.t.Fatal(err)
	}
}

// past moves the clock on, so that nothing is too fresh to be sent.
func (w *world) past() { w.clock.Add(2000) }

func series(i int) string { return fmt.Sprintf(`{__name__="m", i="%d", replica="a"}`, i) }

// await waits until the receiver has n samples of each series.
func (w *world) await(r *remotewritetest.Receiver, n, count int) {
	w.t.Helper()
	r.Await(w.t, fmt.Sprintf("%d samples of %d series", n, count), func() bool {
		got := r.Samples()
		for i := range count {
			if len(got[series(i)]) < n {
				return false
			}
		}
		return true
	})
}

func (w *world) once(r *remotewritetest.Receiver) {
	w.t.Helper()
	if repeated := r.Repeated(); len(repeated) > 0 {
		w.t.Errorf("%d samples came more than once, the first: %s", len(repeated), repeated[0])
	}
}

func versions(t *testing.T, f func(t *testing.T, version remoteapi.WriteMessageType)) {
	t.Helper()
	for name, version := range map[string]remoteapi.WriteMessageType{"1.0": remoteapi.WriteV1MessageType, "2.0": remoteapi.WriteV2MessageType} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, version)
		})
	}
}

func TestSendsEverythingThatASampleHas(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version remoteapi.WriteMessageType) {
		w, r := newWorld(t), remotewritetest.New(t)
		w.apply(endpoint(t, r.URL, version))
		at := w.clock.Add(interval.Milliseconds())
		started := at - 1000
		app := w.tap.AppenderV2(t.Context())
		add := func(name string, st int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions) {
			if _, err := app.Append(0, labels.FromStrings("__name__", name), st, at, v, h, fh, opts); err != nil {
				t.Fatal(err)
			}
		}
		counter := storage.AOptions{
			MetricFamilyName: "events", Metadata: metadata.Metadata{Type: model.MetricTypeCounter, Help: "Events."},
			Exemplars: []exemplar.Exemplar{{Labels: labels.FromStrings("trace", "x"), Value: 1, Ts: 1234, HasTs: true}}, // of long ago
		}
		add("events_total", started, 7, nil, nil, counter)
		add("gone", 0, math.Float64frombits(value.StaleNaN), nil, nil, storage.AOptions{})
		add("seconds", started, 0, tsdbutil.GenerateTestHistogram(1), nil, storage.AOptions{})
		add("share", started, 0, nil, tsdbutil.GenerateTestFloatHistogram(1), storage.AOptions{})
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		w.past()
		name := func(metric string) string { return fmt.Sprintf(`{__name__="%s", replica="a"}`, metric) }
		family := map[remoteapi.WriteMessageType]string{remoteapi.WriteV1MessageType: "events", remoteapi.WriteV2MessageType: "events_total"}[version]
		r.Await(t, "samples and metadata", func() bool { return len(r.Samples()) == 4 && r.Help(family) != "" })

		got := r.Samples()
		want := remotewritetest.Sample{Value: 7, Times: 1}
		if version == remoteapi.WriteV2MessageType {
			want.Start = started
		}
		if s := got[name("events_total")][at]; s != want {
			t.Errorf("the counter is %+v, want %+v", s, want)
		}
		if s := got[name("gone")][at]; !value.IsStaleNaN(s.Value) {
			t.Errorf("the staleness marker is %+v", s)
		}
		for _, metric := range []string{"seconds", "share"} {
			if s := got[name(metric)][at]; !s.Histogram || s.Start != want.Start || s.Value == 0 {
				t.Errorf("the histogram %s is %+v", metric, s)
			}
		}
		if n := r.Exemplars(name("events_total")); n != 1 {
			t.Errorf("%d exemplars, want 1", n)
		}
		if help := r.Help(family); help != "Events." {
			t.Errorf("the help is %q", help)
		}
	})
}

// TestAnOutageLeavesNoGap kills the sender during an outage.
func TestAnOutageLeavesNoGap(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version remoteapi.WriteMessageType) {
		w, r := newWorld(t), remotewritetest.New(t)
		w.apply(endpoint(t, r.URL, version))
		for range 4 {
			w.scrape(3)
		}
		w.past()
		w.await(r, 4, 3)
		r.Answer(http.StatusServiceUnavailable)
		for range 4 {
			w.scrape(3)
		}
		w.past()
		r.Await(t, "a failed request", func() bool { return r.Requests(http.StatusServiceUnavailable) > 0 })
		w.close(w.writer, 0)
		for range 4 {
			w.scrape(3)
		}
		w.open()
		w.apply(endpoint(t, r.URL, version))
		for range 4 {
			w.scrape(3)
		}
		w.past()
		r.Answer(0)
		w.await(r, 16, 3)
		w.once(r)
	})
}

// TestALongOutage lets the head of the TSDB become blocks while the receiver is away.
func TestALongOutage(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	r.Answer(http.StatusBadGateway)
	e := endpoint(t, r.URL, remoteapi.WriteV2MessageType)
	e.QueueConfig.MaxSamplesPerSend = 50
	w.apply(e)
	const scrapes = 12 * 60 * 4 // twelve hours
	for range scrapes {
		w.scrape(2)
	}
	if err := w.db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.db.Blocks()) == 0 {
		t.Fatal("no block was made")
	}
	w.past()
	r.Answer(0)
	w.await(r, scrapes, 2)
	w.once(r)
}

func TestLateSamplesAreSentOnce(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	w.apply(endpoint(t, r.URL, remoteapi.WriteV2MessageType))
	begin := w.clock.Load()
	for range 4 {
		w.scrape(2)
	}
	w.past()
	w.await(r, 4, 2)

	// What an open appender holds is not late, whatever else is committed meanwhile.
	slow := w.tap.AppenderV2(t.Context())
	at := w.clock.Add(1000)
	if _, err := slow.Append(0, labels.FromStrings("__name__", "slow"), 0, at, 1, nil, nil, storage.AOptions{}); err != nil {
		t.Fatal(err)
	}
	w.scrape(2)
	w.past()
	w.append(begin+1, 2) // a quarter of a minute late
	w.past()
	w.await(r, 5, 2)
	w.exemplar()
	r.Await(t, "the request after", func() bool { return r.Exemplars(series(0)) == 1 })
	if err := slow.Commit(); err != nil {
		t.Fatal(err)
	}
	w.past()
	w.await(r, 6, 2)
	r.Await(t, "the slow sample", func() bool { return len(r.Samples()[`{__name__="slow", replica="a"}`]) == 1 })
	w.once(r)

	// The late ones were sent while an appender was open. A start does not begin with them again.
	w.close(w.writer, time.Minute)
	w.open()
	w.apply(endpoint(t, r.URL, remoteapi.WriteV2MessageType))
	w.scrape(2)
	w.past()
	w.await(r, 7, 2)
	w.once(r)
}

// TestLateSamplesSurviveACrash crashes between the commit of late samples and their sending.
func TestLateSamplesSurviveACrash(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	e := endpoint(t, r.URL, remoteapi.WriteV1MessageType)
	w.apply(e)
	begin := w.clock.Load()
	w.scrape(1)
	w.past()
	w.await(r, 1, 1)
	r.Answer(http.StatusServiceUnavailable)
	w.append(begin+1, 1)
	w.close(w.writer, 0)
	r.Answer(0)
	w.open()
	w.apply(e)
	w.past()
	w.await(r, 2, 1)
}

func TestTheClockGoesBack(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			t.Parallel()
			w, r := newWorld(t), remotewritetest.New(t)
			e := endpoint(t, r.URL, remoteapi.WriteV2MessageType)
			day := (24 * time.Hour).Milliseconds()
			w.clock.Add(day)
			w.apply(e)
			w.scrape(2)
			w.past()
			w.await(r, 1, 2)
			if restart {
				w.close(w.writer, 0)
			}
			w.clock.Add(-day)
			if restart {
				w.open()
				w.apply(e)
			}
			for n := range 4 {
				w.scrape(2)
				w.past()
				w.await(r, n+2, 2)
			}
			w.once(r)
		})
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		status int
		waits  bool
	}{
		{"it drops what is refused for what it is", http.StatusUnprocessableEntity, false},
		{"it waits where the password is wrong", http.StatusUnauthorized, true},
		{"it waits where there is no route", http.StatusNotFound, true},
		{"it waits where the receiver is locked", http.StatusLocked, true},
		{"it waits where it is too early", http.StatusTooEarly, true},
		{"it waits where there are too many", http.StatusTooManyRequests, true},
		{"it waits where the receiver is broken", http.StatusInternalServerError, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, r := newWorld(t), remotewritetest.New(t)
			w.apply(endpoint(t, r.URL, remoteapi.WriteV1MessageType))
			w.scrape(2)
			w.past()
			w.await(r, 1, 2)
			r.Answer(tt.status)
			w.scrape(2)
			w.past()
			r.Await(t, "a refusal", func() bool { return r.Requests(tt.status) > 0 })
			r.Answer(0)
			w.scrape(2)
			w.past()
			want := 2
			if tt.waits {
				want = 3
			}
			w.await(r, want, 2)
			w.close(w.writer, time.Minute)
			if got := len(r.Samples()[series(0)]); got != want {
				t.Errorf("%d samples came, want %d", got, want)
			}
			w.counted(map[bool]float64{true: 0, false: 2}[tt.waits], float64(2*want))
		})
	}
}

// TestARefusalIsOneRequest has a receiver refuse everything with 400 from the start. Samples that it cannot have are not
// tried one by one.
func TestARefusalIsOneRequest(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	r.Answer(http.StatusBadRequest)
	w.apply(endpoint(t, r.URL, remoteapi.WriteV2MessageType))
	w.scrape(20)
	w.past()
	r.Await(t, "a refusal", func() bool { return r.Requests(http.StatusBadRequest) > 0 })
	w.close(w.writer, time.Minute)
	if n := r.Requests(http.StatusBadRequest); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	w.counted(20, 0)
}

// counted compares the samples refused and sent with the metrics.
func (w *world) counted(refused, sent float64) {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "usaged_remote_write_samples_total" {
			for _, m := range f.GetMetric() {
				got[m.GetLabel()[0].GetValue()] += m.GetCounter().GetValue()
			}
		}
	}
	if got["refused"] != refused || got["sent"] != sent {
		w.t.Errorf("counted %v, want %v refused and %v sent", got, refused, sent)
	}
}

// TestAStrictReceiver repeats a request whose answer was lost to a receiver that refuses what it has.
func TestAStrictReceiver(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	r.Strict()
	e := endpoint(t, r.URL, remoteapi.WriteV1MessageType)
	w.apply(e)
	for range 3 {
		w.scrape(3)
	}
	w.past()
	w.await(r, 3, 3)
	w.close(w.writer, 0)
	w.forget(60_000) // as if the answers had been lost
	w.open()
	for range 3 {
		w.scrape(3)
	}
	w.apply(e)
	w.past()
	w.await(r, 6, 3)
}

// TestAReceiverWithoutNativeHistograms refuses whatever comes with one. The rest arrives, in the requests that follow too.
func TestAReceiverWithoutNativeHistograms(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version remoteapi.WriteMessageType) {
		w, r := newWorld(t), remotewritetest.New(t)
		r.NoHistograms()
		e := endpoint(t, r.URL, version)
		e.QueueConfig.MaxSamplesPerSend = 5
		w.apply(e)
		const scrapes = 4
		for range scrapes {
			at := w.scrape(3)
			app := w.tap.AppenderV2(t.Context())
			if _, err := app.Append(0, labels.FromStrings("__name__", "seconds"), 0, at, 0, tsdbutil.GenerateTestHistogram(1), nil, storage.AOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := app.Commit(); err != nil {
				t.Fatal(err)
			}
			w.past()
			w.await(r, 1, 3)
		}
		w.await(r, scrapes, 3)
		w.close(w.writer, time.Minute)
		w.once(r)
		if n := r.Requests(http.StatusInternalServerError); n != 1 {
			t.Errorf("%d requests held a histogram, want the first alone", n)
		}
		if got := r.Samples(); len(got) != 3 {
			t.Errorf("%d series came, want 3", len(got))
		}
	})
}

// forget takes the cursors back.
func (w *world) forget(ms int64) {
	w.t.Helper()
	cursors(w.t, w.dir, func(cursor int64) int64 { return cursor - ms })
}

func TestRelabelling(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	e := endpoint(t, r.URL, remoteapi.WriteV2MessageType)
	e.WriteRelabelConfigs = []*relabel.Config{{
		SourceLabels: model.LabelNames{"i"}, Regex: relabel.MustNewRegexp("1"), Action: relabel.Keep, NameValidationScheme: model.UTF8Validation,
	}}
	e.Headers = map[string]string{"X-Scope-OrgID": "me"}
	w.apply(e)
	w.scrape(3)
	w.past()
	r.Await(t, "a sample", func() bool { return len(r.Samples()) > 0 })
	w.close(w.writer, time.Minute)
	if got := r.Samples(); len(got) != 1 || len(got[series(1)]) != 1 {
		t.Errorf("got %v, want one sample of series 1", got)
	}
	if got := r.Header().Get("X-Scope-OrgID"); got != "me" {
		t.Errorf("the header is %q", got)
	}
}

func TestCloseSendsWhatIsLeft(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	e := endpoint(t, r.URL, remoteapi.WriteV2MessageType)
	e.QueueConfig.BatchSendDeadline = model.Duration(time.Hour)
	w.apply(e)
	for range 3 {
		w.scrape(2)
	}
	w.close(w.writer, time.Minute)
	w.await(r, 3, 2)
	w.once(r)
}

// TestAppliesAgain changes the settings of an endpoint, takes it away, and brings it back.
func TestAppliesAgain(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	e := endpoint(t, r.URL, remoteapi.WriteV1MessageType)
	w.apply(e)
	w.scrape(2)
	changed := endpoint(t, r.URL, remoteapi.WriteV2MessageType)
	w.apply(changed)
	w.scrape(2)
	w.apply()
	w.scrape(2)
	w.apply(changed)
	w.scrape(2)
	w.past()
	w.await(r, 4, 2)
	if err := w.writer.Apply(labels.EmptyLabels(), []*config.RemoteWriteConfig{e, e}); err == nil {
		t.Error("the same endpoint was taken twice")
	}
}

func TestMetricsLint(t *testing.T) {
	t.Parallel()
	w, r := newWorld(t), remotewritetest.New(t)
	w.apply(endpoint(t, r.URL, remoteapi.WriteV1MessageType))
	w.scrape(1)
	w.past()
	w.await(r, 1, 1)
	problems, err := testutil.GatherAndLint(w.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}
