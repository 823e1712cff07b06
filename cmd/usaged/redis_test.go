package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator/store/redis/redistest"
)

// redisPace is the pace of senders where Redis is what is tested: the processor is shared with other tests.
const redisPace = 20 * time.Millisecond

// modesOfReplicas are modes for several daemons: what is sent again may go to another one, and some requests with ids go to
// all at the same time.
var modesOfReplicas = append(slices.Clone(modes), mode{name: "both-ids", events: 30, ids: true, retry: true, both: true})

// newRedisInstance returns a daemon that counts into a Redis.
func newRedisInstance(t testing.TB, url string, args ...string) *instance {
	t.Helper()
	return newInstance(t, append([]string{"--redis.url=" + url}, args...)...)
}

// startReplicas starts n daemons on one Redis, under a load that goes to all of them, each watched.
func startReplicas(t *testing.T, n int, url string, args ...string) *replicas {
	t.Helper()
	r := &replicas{tb: t}
	for range n {
		d := newRedisInstance(t, url, args...)
		d.start()
		r.daemons = append(r.daemons, d)
	}
	r.load = newLoad(t, r.daemons...)
	r.load.pace = redisPace
	r.load.start(seed(t), 1, modesOfReplicas)
	for i, d := range r.daemons {
		r.watches = append(r.watches, startWatchAt(t, d, r.load, r.load.targets[i], 5*redisPace))
	}
	return r
}

// replicas are daemons on one Redis, and what was sent to them.
type replicas struct {
	tb      testing.TB
	daemons []*instance
	load    *load
	watches []*watch
}

// exact ends the load and waits until everything that the daemons show together is what the senders know. It returns how
// long that took.
func (r *replicas) exact() time.Duration {
	r.tb.Helper()
	r.load.stop()
	took := r.exactAgain()
	for i, w := range r.watches {
		w.stop()
		w.judge(&figures{Counters: r.daemons[i].counters()})
	}
	f, err := figuresOf(7, r.daemons...)
	if err != nil {
		r.tb.Fatal(err)
	}
	r.tb.Logf("%d requests, together %+v, exact after %s", r.load.requests.Load(), f.Ledger.All, took.Round(time.Millisecond))
	return took
}

// exactAgain is exact in the middle of a test, when the load has ended.
func (r *replicas) exactAgain() time.Duration {
	r.tb.Helper()
	began := time.Now()
	eventually(r.tb, "exact figures", func() error {
		f, err := figuresOf(7, r.daemons...)
		if err != nil {
			return err
		}
		return r.load.difference(f)
	})
	return time.Since(began)
}

// accepting waits until every daemon has accepted some more, whatever the store does.
func (r *replicas) accepting(more int64) {
	r.tb.Helper()
	for _, to := range r.load.targets {
		to.until(r.tb, more)
	}
}

// until waits until a daemon has accepted more events.
func (t *target) until(tb testing.TB, more int64) {
	tb.Helper()
	goal := t.acked.Load() + more
	eventually(tb, "accepted events", func() error {
		if n := t.acked.Load(); n < goal {
			return fmt.Errorf("%d, want %d", n, goal)
		}
		return nil
	})
}

// applying waits until every daemon has applied everything that it had accepted at the call, and returns how long that took. That
// as many are counted does not tell: where a part of a cluster is away, the others count what has come since.
func (r *replicas) applying() time.Duration {
	r.tb.Helper()
	began := time.Now()
	for i, d := range r.daemons {
		goal := uint64(r.load.targets[i].acked.Load())
		eventually(r.tb, "applied events", func() error {
			asked := time.Now()
			lag := time.Duration(d.metric("usaged_apply_lag_seconds") * float64(time.Second))
			l, err := d.tryLedger()
			switch {
			case err != nil:
				return err
			case lag >= asked.Sub(began):
				return fmt.Errorf("the oldest that is not applied was accepted %s ago, %s before the call", lag, lag-asked.Sub(began))
			case l.All.Counted+l.All.Duplicates < goal:
				return fmt.Errorf("%+v, want %d applied", l.All, goal)
			}
			return nil
		})
	}
	return time.Since(began)
}

// try reads a path of a daemon that may be unable to answer.
func (d *instance) try(path, role string) ([]byte, error) {
	d.tb.Helper()
	a := d.do(http.MethodGet, path, role, nil, nil)
	if a.status != http.StatusOK {
		return nil, fmt.Errorf("GET %s: status %d: %.300s", path, a.status, a.body)
	}
	return a.body, nil
}

func (d *instance) tryJSON(path string, v any) error {
	d.tb.Helper()
	body, err := d.try(path, "admin")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

func (d *instance) tryLedger() (*ledger, error) {
	d.tb.Helper()
	var l ledger
	if err := d.tryJSON("/api/v1/usage/ledger", &l); err != nil {
		return nil, err
	}
	return &l, l.balance()
}

// figuresOf reads everything that daemons on one store say: what each counted is added up, what the store holds must be the
// same for all. It returns an error where one is unable to answer, or has events that are not applied.
func figuresOf(days int, daemons ...*instance) (*figures, error) {
	sum := &figures{Ledger: &ledger{Types: map[string]account{}}, Counters: map[string]uint64{}}
	for i, d := range daemons {
		l, err := d.tryLedger()
		if err != nil {
			return nil, err
		}
		if l.All.Pending > 0 {
			return nil, fmt.Errorf("%d events are pending", l.All.Pending)
		}
		sum.Ledger.All = sum.Ledger.All.plus(l.All)
		for name, t := range l.Types {
			sum.Ledger.Types[name] = sum.Ledger.Types[name].plus(t)
		}
		for name, n := range d.counters() {
			sum.Counters[name] += n
		}
		f, err := d.tryStored(days)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			same := figures{Summary: sum.Summary, Users: sum.Users, Daily: sum.Daily}
			if diff := cmp.Diff(&same, f); diff != "" {
				return nil, fmt.Errorf("the daemons differ:\n%.2000s", diff)
			}
		}
		sum.Summary, sum.Users, sum.Daily = f.Summary, f.Users, f.Daily
	}
	return sum, nil
}

func (a account) plus(b account) account {
	return account{a.Accepted + b.Accepted, a.Counted + b.Counted, a.Duplicates + b.Duplicates, a.Pending + b.Pending, a.Damaged + b.Damaged}
}

// tryStored reads what is in the store.
func (d *instance) tryStored(days int) (*figures, error) {
	d.tb.Helper()
	var summary struct{ Summary map[string]map[string]uint64 }
	var daily struct{ Daily map[string]map[string]uint64 }
	f := &figures{}
	err := errors.Join(
		d.tryJSON(fmt.Sprintf("/api/v1/usage/summary?days=%d", days), &summary),
		d.tryJSON(fmt.Sprintf("/api/v1/usage/users?days=%d", days), &f.Users),
		d.tryJSON(fmt.Sprintf("/api/v1/usage/daily?days=%d", days), &daily),
	)
	f.Summary, f.Daily = summary.Summary, daily.Daily
	return f, err
}

// metric returns the value of a sample in a scrape, by its name with its labels. It is 0 where there is none.
func (d *instance) metric(sample string) float64 {
	d.tb.Helper()
	for line := range strings.Lines(string(d.get("/metrics", ""))) {
		if text, ok := strings.CutPrefix(line, sample+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				d.tb.Fatal(err)
			}
			return value
		}
	}
	return 0
}

// TestRedisKill is TestKill on Redis, which loses everything at the end.
func TestRedisKill(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			kills := 5
			if full() {
				kills = 50
			}
			d := newRedisInstance(t, srv.URL(), fmt.Sprintf("--redis.partitions=%d", partitions))
			d.drop = func() { srv.Do("FLUSHALL") }
			testKill(t, d, kills, redisPace)
		})
	}
}

// TestRedisImport imports real events with ids of their own twice, the second time with a stop and a kill on the way, and
// then rebuilds Redis from the journal.
func TestRedisImport(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			file := realData(t, hubFile)
			tr := readTruth(t, file)
			srv := redistest.Start(t)
			d := newRedisInstance(t, srv.URL(), fmt.Sprintf("--redis.partitions=%d", partitions))
			d.start()
			// Redis has no clock of its own for tests: rollups of 2015 would expire at once.
			report := d.importFile(0, "--ids=field", "--shift-to-now", "--jq="+hubJQ, "--compression=zstd", file)
			if report.Records != int(tr.Events) || report.Accepted != int(tr.Events) {
				t.Errorf("report %+v, want %d records, all accepted", report, tr.Events)
			}
			f := d.figures(7)
			checkTotals(t, f, tr)
			want := map[string]map[string]uint64{}
			for day, types := range tr.Daily {
				want[shifted(t, day, report.ShiftDays)] = types
			}
			if diff := cmp.Diff(want, notEmpty(f.Daily)); diff != "" {
				t.Errorf("daily (-want +got):\n%.2000s", diff)
			}

			lines := hubLines(t, file, report.ShiftDays)
			for i, chunk := range slices.Collect(slices.Chunk(lines, 5000)) {
				switch i {
				case 1:
					d.stop()
					d.start()
				case 2:
					d.kill()
					d.start()
				}
				d.post(chunk...)
			}
			second := d.figures(7)
			if got := second.Ledger.All; got.Duplicates != tr.Events || got.Accepted != 2*tr.Events {
				t.Errorf("sent again: %+v, want %d duplicates", got, tr.Events)
			}
			all := second.Ledger
			second.Ledger = f.Ledger
			same(t, "sent again", second, f)

			srv.Do("FLUSHALL")
			second.Ledger = all
			eventually(t, "rebuild", func() error {
				rebuilt, err := figuresOf(7, d)
				if err != nil {
					return err
				}
				if diff := cmp.Diff(second, rebuilt); diff != "" {
					return fmt.Errorf("rebuilt (-want +got):\n%.2000s", diff)
				}
				return nil
			})
		})
	}
}

// hubLines are the events of hubFile as curl would send them, some days later.
func hubLines(t *testing.T, file string, days int) []string {
	t.Helper()
	var lines []string
	for _, r := range readRecords[hubEvent](t, file) {
		created, err := time.Parse(time.RFC3339, r.Dt)
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(map[string]any{
			"id": r.ID, "event_type": r.Type, "user_id": r.Actor, "created_at": created.AddDate(0, 0, days), "source": "github",
			"metadata": map[string]string{"repo": r.Repo},
		})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	return lines
}
