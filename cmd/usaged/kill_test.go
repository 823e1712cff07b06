package main

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"usaged/tools/waittest"
)

// seed returns the seed of random moments.
func seed(t testing.TB) uint64 {
	t.Helper()
	n := uint64(1)
	if text := os.Getenv(seedEnv); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
	}
	t.Logf("%s=%d", seedEnv, n)
	return n
}

// TestKill kills the daemon at random moments under load, and in its starts. Against the senders' own ledger every 202 is
// counted once and nothing refused appears; the daemon's ledger balances and its counters never fall at any look.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := 6
	if full() {
		kills = 50
	}
	testKill(t, newInstance(t), kills, 0)
}

// testKill kills a daemon that was never started. pace is the load's.
func testKill(t *testing.T, d *instance, kills int, pace time.Duration) {
	t.Helper()
	n := seed(t)
	rng := rand.New(rand.NewPCG(n, 0))
	d.start()
	l := newLoad(t, d)
	l.pace = pace
	l.start(n, 1, modes)
	w := startWatch(t, d, l)
	for range kills {
		switch rng.IntN(4) {
		case 0: // just behind an acknowledgement
			l.until(1 + rng.Int64N(400))
		case 1: // in the next start
			d.kill()
			d.launch()
			pass(time.Duration(rng.Int64N(int64(150 * time.Millisecond))))
		default:
			pass(time.Duration(rng.Int64N(int64(600 * time.Millisecond))))
		}
		d.kill()
		d.start()
		l.reach(d.url)
	}
	l.until(200)
	l.stop()
	w.stop()
	f := d.figures(7)
	l.judge(f)
	w.judge(f)
	if f.Ledger.All.Duplicates == 0 {
		t.Error("no duplicates, although the senders repeat themselves")
	}
	t.Logf("%d kills, %d requests answered, %d looks, ledger %+v", kills, l.requests.Load(), w.looks, f.Ledger.All)

	d.kill()
	lines := strings.Count(d.usagectl("journal", "cat", d.dir).stdout, "\n")
	if want := f.Ledger.All.Accepted; uint64(lines) != want {
		t.Errorf("journal cat prints %d events, want %d", lines, want)
	}
	d.dropDatabase()
	d.start()
	same(t, "after the database was deleted", d.figures(7), f)
}

// pass lets a random time pass: the moment is what is tested, nothing waits for anything.
func pass(d time.Duration) { <-time.After(d) }

// watch looks at a daemon again and again, while it dies and comes back.
type watch struct {
	load     *load
	at       *target
	interval time.Duration
	admin    string
	quit     chan struct{}
	done     sync.WaitGroup

	looks    int
	counters map[string]uint64 // the highest seen
	accepted uint64
}

func startWatch(t testing.TB, d *instance, l *load) *watch {
	t.Helper()
	return startWatchAt(t, d, l, l.targets[0], 10*time.Millisecond)
}

// startWatchAt watches the daemon that is a target of the load.
func startWatchAt(t testing.TB, d *instance, l *load, at *target, interval time.Duration) *watch {
	t.Helper()
	w := &watch{load: l, at: at, interval: interval, admin: d.token("admin"), quit: make(chan struct{}), counters: map[string]uint64{}}
	w.done.Go(func() { w.run(w.lookAtLedger) })
	w.done.Go(func() { w.run(w.lookAtCounters) }) // they must not wait for the store
	t.Cleanup(w.stop)
	return w
}

func (w *watch) stop() {
	select {
	case <-w.quit:
	default:
		close(w.quit)
	}
	w.done.Wait()
}

func (w *watch) run(look func()) {
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-tick.C:
			look()
		}
	}
}

func (w *watch) lookAtLedger() {
	acked := w.at.acked.Load()
	body := w.get("/api/v1/usage/ledger")
	if body == nil {
		return
	}
	var l ledger
	if err := json.Unmarshal(body, &l); err != nil {
		w.load.tb.Errorf("ledger: %v", err)
		return
	}
	if err := l.balance(); err != nil {
		w.load.tb.Errorf("ledger: %v", err)
	}
	if l.All.Accepted < uint64(acked) || l.All.Accepted < w.accepted {
		w.load.tb.Errorf("the ledger has accepted %d, %d before, and %d are acknowledged", l.All.Accepted, w.accepted, acked)
	}
	w.accepted = l.All.Accepted
	w.looks++
}

func (w *watch) lookAtCounters() {
	body := w.get("/metrics")
	if body == nil {
		return
	}
	counters, err := parseCounters(body)
	if err != nil {
		w.load.tb.Error(err)
		return
	}
	if len(counters) == 0 {
		return // absent, not zero: the totals are not known yet
	}
	for name, before := range w.counters {
		if now := counters[name]; now < before {
			w.load.tb.Errorf("usage_events_total of type %q fell from %d to %d", name, before, now)
		}
	}
	w.counters = counters
}

// get reads a path. It returns nil where the daemon is not there.
func (w *watch) get(path string) []byte {
	ctx, cancel := waittest.Context(w.load.giveUp)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, *w.at.url.Load()+path, nil)
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.admin)
	resp, err := w.load.http.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil
	}
	return body
}

// judge compares the last look with the end.
func (w *watch) judge(f *figures) {
	for name, n := range w.counters {
		if f.Counters[name] < n {
			w.load.tb.Errorf("usage_events_total of type %q fell from %d to %d at the end", name, n, f.Counters[name])
		}
	}
	if w.looks == 0 {
		w.load.tb.Error("nobody looked")
	}
}
