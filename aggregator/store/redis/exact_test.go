package redis_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
	"github.com/google/go-cmp/cmp"

	"usaged/aggregator"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// ledger is what the senders know: every event that was acknowledged, and each id of a user once.
type ledger struct {
	mu       sync.Mutex
	accepted int
	counted  map[string]uint64 // "type user"
	ids      map[string]bool   // "user id"
}

// sent is an event as a client sends it.
type sent struct {
	ID        string    `json:"id,omitempty"`
	UserID    string    `json:"user_id"`
	Type      string    `json:"event_type"`
	CreatedAt time.Time `json:"created_at"`
}

// replica is one data directory that counts into Redis under a load of its own.
type replica struct {
	t       *testing.T
	agg     *aggregator.Aggregator
	metrics *vm.Set
	store   *redis.Store
	decoder *event.Decoder
	// ids begins the ids of its events: replicas with the same get copies of each other's events.
	ids      string
	accepted uint64

	stop chan struct{}
	done chan struct{}
}

// scenario is some replicas on one Redis, and what was sent to them.
type scenario struct {
	*testing.T
	ledger   *ledger
	replicas []*replica
	began    time.Time
}

// startScenario opens replicas and puts them under load until wantExact.
func startScenario(t *testing.T, replicas, partitions int, shared bool, url string) *scenario {
	t.Helper()
	sc := &scenario{T: t, began: time.Now(), ledger: &ledger{counted: map[string]uint64{}, ids: map[string]bool{}}}
	for i := range replicas {
		r := &replica{t: t, store: openClosed(t, config(t, url, partitions)), decoder: event.NewDecoder(), stop: make(chan struct{}), done: make(chan struct{})}
		if !shared {
			r.ids = fmt.Sprint(i, "-")
		}
		r.metrics = vm.NewSet()
		agg, err := aggregator.Open(aggregator.Config{
			Dir: t.TempDir(), Store: r.store, Meters: meter.Builtin(), Retention: 30, SegmentBytes: 1 << 20, Metrics: r.metrics,
		})
		if err != nil {
			t.Fatal(err)
		}
		r.agg = agg
		t.Cleanup(func() {
			if err := agg.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		sc.replicas = append(sc.replicas, r)
		go r.load(sc)
		t.Cleanup(r.halt)
	}
	return sc
}

// load sends events until halt: most without id, the others with one of a few.
func (r *replica) load(sc *scenario) {
	defer close(r.done)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		var events []sent
		for range 1 + rand.IntN(20) {
			e := sent{UserID: fmt.Sprint("user{p0}-", rand.IntN(50)), Type: fmt.Sprint("type ", rand.IntN(3)), CreatedAt: sc.began}
			if rand.IntN(3) == 0 {
				e.ID, e.Type = r.ids+fmt.Sprint(rand.IntN(500)), "with id"
			}
			events = append(events, e)
		}
		if err := r.accept(sc.ledger, events); err != nil {
			r.t.Errorf("accept: %v", err)
			return
		}
	}
}

func (r *replica) accept(l *ledger, events []sent) error {
	body, err := json.Marshal(events)
	if err != nil {
		return err
	}
	batch, err := r.decoder.Decode(body, event.JSON, event.Origin{Token: "t", User: "t", AcceptedAt: time.Now(), Oldest: r.agg.Oldest()})
	if err != nil {
		return err
	}
	if err := r.agg.Accept(batch); err != nil {
		return err
	}
	r.accepted += uint64(len(events))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accepted += len(events)
	for _, e := range events {
		if e.ID != "" {
			key := e.UserID + " " + e.ID
			if l.ids[key] {
				continue
			}
			l.ids[key] = true
		}
		l.counted[e.Type+" "+e.UserID]++
	}
	return nil
}

func (r *replica) halt() {
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	<-r.done
}

// waitAccepted waits until n more events were accepted.
func (sc *scenario) waitAccepted(n int) {
	sc.Helper()
	accepted := func() int {
		sc.ledger.mu.Lock()
		defer sc.ledger.mu.Unlock()
		return sc.ledger.accepted
	}
	want := accepted() + n
	redistest.Eventually(sc.T, func() bool { return accepted() >= want }, func() string { return "the load has stopped" })
}

// waitMoved waits until something of every replica has been applied, which a rollback to now would lose.
func (sc *scenario) waitMoved() {
	sc.Helper()
	counted := func() map[string]uint64 {
		producers, err := sc.replicas[0].store.Producers(sc.Context())
		if err != nil {
			sc.Fatal(err)
		}
		byID := map[string]uint64{}
		for _, p := range producers {
			for s, n := range p.Totals {
				if s.Family == meter.FamilyEvents {
					byID[p.ID] += n
				}
			}
		}
		return byID
	}
	before := counted()
	redistest.Eventually(sc.T, func() bool {
		now := counted()
		for id, n := range now {
			if n <= before[id] {
				return false
			}
		}
		return len(now) == len(sc.replicas)
	}, func() string { return "not every replica is applied" })
}

// probe is a producer of the tests alone.
const probe = "probe"

// waitApplying waits until every partition takes something again, and returns how long that took.
func (sc *scenario) waitApplying() time.Duration {
	sc.Helper()
	began := time.Now()
	st := sc.replicas[0].store
	for p := range st.Partitions() {
		redistest.Eventually(sc.T, func() bool {
			at, err := st.Producer(sc.Context(), p, probe)
			if err != nil {
				return false
			}
			out, err := st.Apply(sc.Context(), &store.Batch{Producer: probe, Partition: p, Prev: at.Offset, Last: at.Offset + 1})
			return err == nil && out.Applied
		}, func() string { return fmt.Sprintf("partition %d takes nothing", p) })
	}
	return time.Since(began)
}

// wantExact ends the load and waits until the store, the accounts and the ledger agree.
func (sc *scenario) wantExact() {
	sc.Helper()
	for _, r := range sc.replicas {
		r.halt()
	}
	wrong := ""
	redistest.Eventually(sc.T, func() bool {
		wrong = sc.difference()
		return wrong == ""
	}, func() string { return wrong })
	sc.Logf("%d events, exact", sc.ledger.accepted)
}

// wantRewinds checks that the store has forgotten something, as the test meant it to.
func (sc *scenario) wantRewinds() {
	sc.Helper()
	for i, r := range sc.replicas {
		n := metric(r.metrics, "usaged_rewinds_total")
		sc.Logf("replica %d went back %s times", i, n)
		if n == "0" {
			sc.Errorf("replica %d lost nothing", i)
		}
	}
}

func (sc *scenario) difference() string {
	st, day := sc.replicas[0].store, event.DayOf(sc.began)
	types, err := st.Types(sc.Context(), []event.Day{day})
	if err != nil {
		return err.Error()
	}
	got, byType, lifetime := map[string]uint64{}, map[string]uint64{}, map[string]uint64{}
	for name := range types[0] {
		err := st.Sum(sc.Context(), meter.TypeRollup(name), []event.Day{day}, func(user []byte, n uint64) {
			got[name+" "+string(user)] = n
			byType[name] += n
		})
		if err != nil {
			return err.Error()
		}
	}
	if diff := cmp.Diff(sc.ledger.counted, got); diff != "" {
		return "store and ledger differ (-ledger +store):\n" + diff
	}
	if diff := cmp.Diff(byType, types[0]); diff != "" {
		return "users and types differ:\n" + diff
	}
	for i, r := range sc.replicas {
		acc, err := r.agg.Ledger(sc.Context())
		if err != nil {
			return err.Error()
		}
		if a := acc.All; a.Accepted != r.accepted || a.Pending != 0 || a.Accepted != a.Counted+a.Duplicates {
			return fmt.Sprintf("replica %d accepted %d, its accounts say %+v", i, r.accepted, a)
		}
		totals, _ := r.agg.Totals()
		for s, n := range totals {
			if s.Family == meter.FamilyEvents && n > 0 {
				lifetime[s.A] += n
			}
		}
	}
	if diff := cmp.Diff(byType, lifetime); diff != "" {
		return "rollups and lifetime totals differ (-rollups +totals):\n" + diff
	}
	return ""
}

// rounds is how often a fault is repeated.
func rounds(quick, long int) int {
	if full {
		return long
	}
	return quick
}

func TestExactAfterFlush(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 16} {
		t.Run(fmt.Sprintf("partitions=%d", partitions), func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			sc := startScenario(t, 2, partitions, true, srv.URL())
			for range rounds(3, 30) {
				sc.waitAccepted(1000)
				sc.waitMoved()
				srv.Do("FLUSHALL")
			}
			sc.waitAccepted(500)
			sc.wantExact()
			sc.wantRewinds()
		})
	}
}

// TestExactWhileIdle loses everything when nothing arrives any more.
func TestExactWhileIdle(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	sc := startScenario(t, 2, 1, true, srv.URL())
	sc.waitAccepted(1000)
	sc.wantExact()
	srv.Do("FLUSHALL")
	sc.wantExact()
	sc.wantRewinds()
}

// TestExactAfterSnapshot restarts Redis from a snapshot that is older than what it has acknowledged.
func TestExactAfterSnapshot(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	sc := startScenario(t, 2, 2, false, srv.URL())
	for range rounds(2, 20) {
		sc.waitAccepted(1000)
		srv.Do("SAVE")
		sc.waitMoved()
		srv.Kill()
		sc.waitAccepted(500)
		srv.Restart()
		sc.waitApplying()
	}
	sc.wantExact()
	sc.wantRewinds()
}

func TestExactAfterKillWithAppendOnlyFile(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	sc := startScenario(t, 2, 2, true, srv.URL())
	for range rounds(3, 30) {
		sc.waitAccepted(500)
		srv.Kill()
		srv.Restart()
		sc.waitApplying()
	}
	sc.waitAccepted(500)
	sc.wantExact()
}

func TestExactWithLostReplies(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	proxy := redistest.StartProxy(t, srv.Addr)
	sc := startScenario(t, 2, 2, true, proxy.URL())
	for _, every := range []int{7, 3, 2} {
		proxy.LoseReplies(every)
		sc.waitAccepted(rounds(2000, 20_000))
	}
	proxy.Cut()
	proxy.Refuse(true)
	sc.waitAccepted(500)
	proxy.Refuse(false)
	proxy.LoseReplies(0)
	sc.wantExact()
	if proxy.Lost() < 5 {
		t.Errorf("only %d replies were lost", proxy.Lost())
	}
}

// TestExactAfterFailover lets the Sentinels replace a master whose last acknowledged writes no replica has.
func TestExactAfterFailover(t *testing.T) {
	if !full {
		t.Skip("takes half a minute; set USAGE_TEST_FULL=1")
	}
	t.Parallel()
	c := redistest.StartSentinel(t)
	sc := startScenario(t, 2, 2, false, c.URL())
	for range 2 {
		sc.waitAccepted(2000)
		master := c.Master()
		cutReplication(t, c.Servers, master)
		sc.waitAccepted(2000)
		sc.waitMoved()
		began := time.Now()
		master.Kill()
		took := sc.waitApplying()
		t.Logf("applying again after %v (of which the client %v)", time.Since(began), took)
		c.WaitForMaster(master)
		restoreReplication(c.Servers)
		master.Restart()
		master.WaitFor("master_link_status:up", "INFO", "replication")
		sc.waitAccepted(1000)
	}
	sc.wantExact()
	sc.wantRewinds()
}

// cutReplication lets a master lose its replicas, and go on alone.
func cutReplication(t *testing.T, servers []*redistest.Server, master *redistest.Server) {
	t.Helper()
	for _, s := range servers {
		if s != master {
			if _, err := s.Call("CONFIG", "SET", "masterauth", "wrong"); err != nil {
				continue // it is down
			}
		}
	}
	master.Do("CLIENT", "KILL", "TYPE", "replica")
}

func restoreReplication(servers []*redistest.Server) {
	for _, s := range servers {
		_, _ = s.Call("CONFIG", "SET", "masterauth", "") // one may be down
	}
}

// TestExactOnCluster kills a master whose last writes its replica lacks, and moves slots, under load.
func TestExactOnCluster(t *testing.T) {
	if !full {
		t.Skip("takes half a minute; set USAGE_TEST_FULL=1")
	}
	t.Parallel()
	c := redistest.StartCluster(t)
	sc := startScenario(t, 2, 16, false, c.URL())
	sc.waitAccepted(2000)

	for i := range 16 {
		masters := c.Masters()
		c.Move(c.SlotOf(fmt.Sprintf("{p%d}", i)), masters[i%len(masters)])
	}
	t.Logf("slots moved; every partition was applied again after %v", sc.waitApplying())
	sc.waitAccepted(2000)

	for _, i := range []int{0, 1} {
		master := c.Nodes[i]
		cutReplication(t, c.Nodes, master)
		sc.waitAccepted(2000)
		sc.waitMoved()
		began := time.Now()
		master.Kill()
		sc.waitApplying()
		t.Logf("applying again after %v", time.Since(began))
		restoreReplication(c.Nodes)
		master.Restart()
		c.WaitHealthy()
		sc.waitAccepted(2000)
	}
	sc.wantExact()
	sc.wantRewinds()
}
