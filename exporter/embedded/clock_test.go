package embedded_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"usaged/exporter/remotewrite/remotewritetest"
)

// plant puts a sample of each series into the TSDB of a Prometheus that has stopped.
func (r *rig) plant(at time.Time, value float64, series ...labels.Labels) {
	r.t.Helper()
	db, err := tsdb.Open(r.cfg.Dir, slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	app := db.AppenderV2(r.t.Context())
	for _, ls := range series {
		if _, err := app.Append(0, ls, 0, at.UnixMilli(), value, nil, nil, storage.AOptions{}); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := errors.Join(app.Commit(), db.Close()); err != nil {
		r.t.Fatal(err)
	}
}

// TestAClockThatWasADayAhead has samples of tomorrow in the TSDB, of what is scraped and of what a rule records. Today's
// are stored, recorded and sent on nevertheless, and after another start.
func TestAClockThatWasADayAhead(t *testing.T) {
	t.Parallel()
	receiver := remotewritetest.New(t)
	r := newRig(t, fmt.Sprintf("%sremote_write:\n- url: %s\n  queue_config: {batch_send_deadline: 50ms}\n", fast, receiver.URL))
	r.cfg.Rules = fstest.MapFS{"a.yml": {Data: []byte("groups:\n- name: a\n  rules:\n  - {record: 'usage:events', expr: usage_events_total}\n")}}
	r.start()
	r.events.Add(1)
	r.becomes("usage:events", "1")
	before := time.Now()
	scraped := labels.FromStrings("__name__", "usage_events_total", "event_type", "a", "instance", "host:8080", "job", "usaged")
	recorded := labels.NewBuilder(scraped).Set("__name__", "usage:events").Labels()
	up := labels.FromStrings("__name__", "up", "instance", "host:8080", "job", "usaged")
	r.stop(r.prom)
	r.plant(before.Add(24*time.Hour), 1000, scraped, recorded, up)
	r.start()
	arrives := func(value float64) {
		t.Helper()
		for _, ls := range []labels.Labels{scraped, recorded} {
			receiver.Await(t, fmt.Sprintf("%v of %s", value, ls), func() bool {
				for _, s := range receiver.Samples()[ls.String()] {
					if s.Value == value {
						return true
					}
				}
				return false
			})
		}
	}
	r.events.Add(2)
	r.becomes("usage_events_total", "2")
	r.becomes("usage:events", "2")
	arrives(2)
	r.stop(r.prom)
	r.start()
	r.events.Add(3)
	r.becomes("usage_events_total", "3")
	r.becomes("usage:events", "3")
	arrives(3)
	if got := r.query(fmt.Sprintf("count_over_time(usage:events[1h] @ %.3f) > 0", float64(before.UnixMilli())/1000)); len(got) == 0 {
		t.Error("what was recorded before is gone")
	}
}

// TestAClockThatHasJumped runs on a machine whose clock is wrong by more than any window. Samples are stored, recorded and sent by the
// time of the daemon, queries without a time are about that, and all goes on when the machine's clock is right again.
func TestAClockThatHasJumped(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{
		"60 days ahead": 60 * 24 * time.Hour, "3 days behind": -3 * 24 * time.Hour, "an hour ahead": time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := remotewritetest.New(t)
			r := newRig(t, fmt.Sprintf("%sremote_write:\n- url: %s\n  queue_config: {batch_send_deadline: 50ms}\n", fast, receiver.URL))
			r.cfg.Rules = fstest.MapFS{"a.yml": {Data: []byte("groups:\n- name: a\n  rules:\n  - {record: 'usage:events', expr: usage_events_total}\n")}}
			r.cfg.Now = func() time.Time { return time.Now().Add(-ahead) }
			r.start()
			r.events.Add(1)
			r.becomes("usage:events", "1")
			near := fmt.Sprintf("abs(timestamp(usage:events) - %d) < bool 600", r.cfg.Now().Unix())
			r.becomes(near, "1")
			if got := r.query(fmt.Sprintf("usage_events_total @ %d", time.Now().Unix())); ahead > 0 && len(got) > 0 {
				t.Errorf("stored by the clock of the machine: %v", got)
			}
			receiver.Await(t, "a sample by the time of the daemon", func() bool {
				for series, samples := range receiver.Samples() {
					for at := range samples {
						if off := time.UnixMilli(at).Sub(r.cfg.Now()).Abs(); off > 10*time.Minute {
							t.Fatalf("%s was sent with a time that is wrong by %v", series, off)
						}
					}
				}
				return len(receiver.Samples()) > 0
			})
		})
	}
}

// TestSamplesFromTheFuture scrapes a target that dates its samples days ahead: they are refused, and its others are stored.
func TestSamplesFromTheFuture(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "dated 1 %d\nundated 2\n", time.Now().Add(72*time.Hour).UnixMilli())
	}))
	t.Cleanup(target.Close)
	r := newRig(t, fast+"scrape_configs: [{job_name: other, scrape_interval: 100ms, scrape_timeout: 100ms, static_configs: [{targets: ['"+target.Listener.Addr().String()+"']}]}]\n")
	r.start()
	r.becomes("undated", "2")
	r.events.Add(3)
	r.becomes("usage_events_total", "3")
	if got := r.query(fmt.Sprintf("dated @ %d", time.Now().Add(72*time.Hour).Unix())); len(got) > 0 {
		t.Errorf("a sample of the day after tomorrow was stored: %v", got)
	}
}

// TestTheReceiver takes samples by remote write where that is on.
func TestTheReceiver(t *testing.T) {
	t.Parallel()
	push := func(r *rig, name, job string, more ...string) int {
		req := prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
			Labels:  prompb.FromLabels(labels.FromStrings(append([]string{"__name__", name, "job", job, "instance", "host:8080"}, more...)...), nil),
			Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: 5}},
		}}}
		data, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		post := httptest.NewRequest(http.MethodPost, "/prometheus/api/v1/write", bytes.NewReader(snappy.Encode(nil, data)))
		post.Header.Set("Content-Type", "application/x-protobuf")
		post.Header.Set("Content-Encoding", "snappy")
		rec := httptest.NewRecorder()
		r.prom.ServeHTTP(rec, post)
		return rec.Code
	}
	off, on := newRig(t, fast), newRig(t, fast)
	off.start()
	if code := push(off, "theirs", "their_job"); code != http.StatusNotFound {
		t.Errorf("off by default: status %d, want 404", code)
	}
	on.cfg.Receiver = true
	on.start()
	if code := push(on, "theirs", "their_job"); code != http.StatusNoContent {
		t.Errorf("on: status %d, want 204", code)
	}
	on.becomes("theirs", "5")
	for _, name := range []string{"usage:health:score", "usage:activity:observed", "ALERTS", "ALERTS_FOR_STATE"} {
		if code := push(on, name, "their_job"); code != http.StatusBadRequest {
			t.Errorf("%s, which is our own: status %d, want 400", name, code)
		}
		if got := on.query(name + `{job="their_job"}`); len(got) > 0 {
			t.Errorf("%s was forged: %v", name, got)
		}
	}
	if code := push(on, "usage_events_total", "usaged"); code != http.StatusBadRequest {
		t.Errorf("what we export: status %d, want 400", code)
	}
	if code := push(on, "usage_events_total", "usaged", "replica", "b"); code != http.StatusNoContent {
		t.Errorf("what a replica of the same host name and port exports: status %d, want 204", code)
	}
}
