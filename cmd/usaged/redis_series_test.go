package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"usaged/aggregator/store/redis/redistest"
)

// fleet is two daemons on one Redis, each of which sends its samples to a third that only keeps them.
type fleet struct {
	t       *testing.T
	a, b    *instance
	central *instance
	args    map[string][]string // of each replica
	ledger  map[string]float64  // what was accepted, by event type
	began   time.Time
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	srv := redistest.Start(t)
	f := &fleet{t: t, ledger: map[string]float64{}, args: map[string][]string{}, central: newInstance(t, "--web.enable-remote-write-receiver")}
	f.central.start()
	const file = `
global: {scrape_interval: 100ms, scrape_timeout: 100ms, external_labels: {replica: %s}}
remote_write:
- url: %s/prometheus/api/v1/write
  authorization: {credentials_file: %s}
  queue_config: {batch_send_deadline: 100ms}
  write_relabel_configs:
  - {source_labels: [__name__], regex: usage_events_total, action: keep}
  - {regex: instance, action: labeldrop}
`
	for _, replica := range []string{"a", "b"} {
		f.args[replica] = []string{
			"--redis.url=" + srv.URL(),
			prometheusFile(t, fmt.Sprintf(file, replica, f.central.url, filepath.Join(f.central.dir, "producer.token"))),
		}
	}
	f.a, f.b = newInstance(t, f.args["a"]...), newInstance(t, f.args["b"]...)
	f.a.start()
	f.b.start()
	f.central.becomes(`count(usage_events_total{event_type="sql_execution"} == 0)`, "2")
	f.began = time.Now()
	return f
}

// post has a replica accept n events of each of two types, one that there is from the start and one that there is not.
func (f *fleet) post(d *instance, n int) {
	f.t.Helper()
	var lines []string
	for i := range n {
		for _, kind := range []string{"sql_execution", "own"} {
			lines = append(lines, fmt.Sprintf(`{"event_type":%q,"user_id":"u%d"}`, kind, i%7))
			f.ledger[kind]++
		}
	}
	d.post(lines...)
}

// exact waits until the sum over the replicas is what was accepted.
func (f *fleet) exact(when string) {
	f.t.Helper()
	eventually(f.t, when, func() error {
		sums, err := f.byType("sum by (event_type) (usage_events_total) > 0")
		if err == nil && !maps.Equal(sums, f.ledger) {
			err = fmt.Errorf("the sum is %v, want %v", sums, f.ledger)
		}
		return err
	})
}

// byType asks for one value of each event type.
func (f *fleet) byType(expr string) (map[string]float64, error) {
	series, err := f.central.promQL(expr)
	values := map[string]float64{}
	for _, s := range series {
		v, parseErr := strconv.ParseFloat(fmt.Sprint(s.Value[1]), 64)
		if parseErr != nil {
			return nil, parseErr
		}
		values[s.Metric["event_type"]] = v
	}
	return values, err
}

// monotonous looks at the sum at every moment since the beginning: it never fell, and was never more than what was accepted.
// A scrape that took too long on a busy machine says nothing, so the last value holds.
func (f *fleet) monotonous() {
	f.t.Helper()
	form := url.Values{
		"query": {"sum by (event_type) (last_over_time(usage_events_total[1m]))"}, "step": {"0.1"},
		"start": {fmt.Sprint(f.began.Unix() - 1)}, "end": {fmt.Sprint(time.Now().Unix() + 1)},
	}
	a := f.central.do(http.MethodGet, prometheusPath+"query_range?"+form.Encode(), "viewer", nil, nil)
	var answer struct{ Data struct{ Result []promSeries } }
	if err := json.Unmarshal(a.body, &answer); a.status != http.StatusOK || err != nil {
		f.t.Fatalf("status %d, %v: %.300s", a.status, err, a.body)
	}
	points := 0
	for _, s := range answer.Data.Result {
		kind, before := s.Metric["event_type"], 0.0
		for _, point := range s.Values {
			v, err := strconv.ParseFloat(fmt.Sprint(point[1]), 64)
			if err != nil {
				f.t.Fatal(err)
			}
			if v < before || v > f.ledger[kind] {
				f.t.Errorf("the sum of %s was %v after %v, with %v accepted in the end", kind, v, before, f.ledger[kind])
			}
			before = v
			points++
		}
	}
	if points < 50 {
		f.t.Errorf("the sum has %d points", points)
	}
}

// TestRedisSeries has Prometheus add up the counters of two daemons on one Redis, while one of them is killed, its Redis
// forgets everything, and its data directory moves. Then one begins anew with an empty directory, which is a reset of its
// counters.
func TestRedisSeries(t *testing.T) {
	t.Parallel()
	f := startFleet(t)
	f.post(f.a, 300)
	f.post(f.b, 200)
	f.exact("both counted")
	f.a.kill()
	f.post(f.b, 50)
	f.a.start()
	f.post(f.a, 70)
	f.exact("one was killed")

	f.a.stop()
	moved := instanceIn(t, filepath.Join(t.TempDir(), "elsewhere"), f.args["a"]...)
	if err := os.Rename(f.a.dir, moved.dir); err != nil {
		t.Fatal(err)
	}
	moved.start()
	f.post(moved, 30)
	f.post(f.b, 30)
	f.exact("its directory was moved")
	f.monotonous()

	f.b.kill()
	fresh := newInstance(t, f.args["b"]...)
	fresh.start()
	f.central.becomes(`usage_events_total{event_type="sql_execution",replica="b"} == 0`, "0")
	f.post(fresh, 40)
	f.central.becomes(`usage_events_total{event_type="own",replica="b"}`, "40")
	span := time.Since(f.began).Truncate(time.Millisecond) + 2*time.Second // from before anything was counted
	increase, err := f.byType(fmt.Sprintf("sum by (event_type) (increase(usage_events_total[%dms]))", span.Milliseconds()))
	if err != nil {
		t.Fatal(err)
	}
	// What there is from the start is seen at 0. increase() extrapolates by up to an interval of a hundredth of the span.
	if got, want := increase["sql_execution"], f.ledger["sql_execution"]; math.Abs(got-want) > want/50 {
		t.Errorf("increase() says %v over %s, want %v", got, span, want)
	}
	t.Logf("increase() over %s: %v; accepted: %v", span, increase, f.ledger)
}
