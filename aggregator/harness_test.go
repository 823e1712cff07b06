package aggregator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"usaged/aggregator"
	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/aggregator/store"
	"usaged/aggregator/store/storetest"
)

// faulty is a store that can be told to fail, to lose replies and to forget.
type faulty struct {
	store.Store // read through lock

	mu    sync.Mutex
	inner *storetest.Memory
	saved *storetest.Memory
	// before and after are how many of the next calls of Apply fail without, and after, having taken effect.
	before, after int
	// broken is a partition that fails until it is healed, −1 none.
	broken int
	// hung is a partition that answers nothing until released is closed, −1 none. late are the batches that were sent to it
	// meanwhile and given up; they take effect when it goes on.
	hung     int
	released chan struct{}
	late     []*store.Batch
}

// hungTimeout is how long a call waits for a partition that hangs.
const hungTimeout = 5 * time.Second

func newFaulty(partitions int) *faulty {
	return &faulty{inner: storetest.NewMemory(partitions), broken: -1, hung: -1}
}

// hang lets a partition hang, and release lets it go on.
func (f *faulty) hang(partition int) {
	f.release()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hung, f.released = partition, make(chan struct{})
}

func (f *faulty) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hung < 0 {
		return
	}
	for _, b := range f.late {
		_, _ = f.inner.Apply(context.Background(), b) // nobody learns of it
	}
	close(f.released)
	f.hung, f.late = -1, nil
}

// reach waits while a partition hangs. It returns an error where that takes too long; b may then take effect later.
func (f *faulty) reach(partition int, b *store.Batch) error {
	f.mu.Lock()
	hung, released := f.hung, f.released
	f.mu.Unlock()
	if partition != hung {
		return nil
	}
	select {
	case <-released:
		return nil
	case <-time.After(hungTimeout):
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if b != nil && f.hung == partition {
		f.late = append(f.late, b)
	}
	return errInjected
}

var errInjected = errors.New("injected")

func (f *faulty) current() *storetest.Memory {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inner
}

func (f *faulty) Apply(ctx context.Context, b *store.Batch) (store.Outcome, error) {
	if err := f.reach(b.Partition, b); err != nil {
		return store.Outcome{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case b.Partition == f.broken:
		return store.Outcome{}, errInjected
	case f.before > 0:
		f.before--
		return store.Outcome{}, errInjected
	}
	out, err := f.inner.Apply(ctx, b)
	if f.after > 0 {
		f.after--
		return store.Outcome{}, errInjected
	}
	return out, err
}

func (f *faulty) save() { f.mu.Lock(); f.saved = f.inner.Clone(); f.mu.Unlock() }
func (f *faulty) forget() {
	f.mu.Lock()
	f.inner = storetest.NewMemory(f.inner.Partitions())
	f.mu.Unlock()
}
func (f *faulty) restore() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.saved != nil {
		f.inner = f.saved.Clone()
	}
}

func (f *faulty) fail(before, after, broken int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after, f.broken = before, after, broken
}

func (f *faulty) Partitions() int { return f.current().Partitions() }
func (f *faulty) MaxCells() int   { return 0 }
func (f *faulty) Close() error    { return nil }
func (f *faulty) Producer(ctx context.Context, p int, id string) (store.Producer, error) {
	if err := f.reach(p, nil); err != nil {
		return store.Producer{}, err
	}
	return f.current().Producer(ctx, p, id)
}
func (f *faulty) Producers(ctx context.Context) ([]store.Producer, error) {
	return f.current().Producers(ctx)
}
func (f *faulty) Versions(ctx context.Context, days []event.Day) ([]string, error) {
	return f.current().Versions(ctx, days)
}
func (f *faulty) Types(ctx context.Context, days []event.Day) ([]map[string]uint64, error) {
	return f.current().Types(ctx, days)
}
func (f *faulty) Sum(ctx context.Context, r meter.Rollup, days []event.Day, yield func([]byte, uint64)) error {
	return f.current().Sum(ctx, r, days, yield)
}
func (f *faulty) Expire(ctx context.Context, oldest event.Day, now time.Time) error {
	return f.current().Expire(ctx, oldest, now)
}

// sent is an event as a client sends it.
type sent struct {
	ID       string            `json:"id,omitempty"`
	UserID   string            `json:"user_id"`
	Type     string            `json:"event_type"`
	Source   string            `json:"source,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// CreatedAt is set where Late is: how long before its acceptance the event was created.
	CreatedAt time.Time     `json:"created_at,omitzero"`
	Late      time.Duration `json:"-"`
	// Bound says that a token of the role user sends it. All events of one request are of one token.
	Bound bool `json:"-"`
}

// ledger is what the sender knows: every event that was acknowledged, counted the naive way.
type ledger struct {
	accepted uint64
	counted  map[string]uint64 // "day type user"
	types    map[string]uint64
	families map[string]uint64    // see families
	latest   map[string]time.Time // acceptance of the counted event of a "role user type id"
}

func newLedger() *ledger {
	return &ledger{counted: map[string]uint64{}, types: map[string]uint64{}, families: map[string]uint64{}, latest: map[string]time.Time{}}
}

func (l *ledger) add(e sent, at time.Time) {
	l.accepted++
	if e.ID != "" {
		key := fmt.Sprintf("%t %q %q %q", e.Bound, e.UserID, e.Type, e.ID)
		if before, ok := l.latest[key]; ok && at.Sub(before) < store.DuplicateWindow {
			return
		}
		l.latest[key] = at
	}
	l.counted[fmt.Sprintf("%s %s %s", event.DayOf(at.Add(-e.Late)), e.Type, e.UserID)]++
	l.types[e.Type]++
	for key, n := range families(e) {
		l.families[key] += n
	}
}

// daemon is one data directory with an open aggregator.
type daemon struct {
	t        testing.TB
	cfg      aggregator.Config
	agg      *aggregator.Aggregator
	decoder  *event.Decoder
	accepted uint64
	// older lets it journal events as versions did in which an id named an event of its user whatever the type.
	older bool
}

func openDaemon(t testing.TB, dir string, st store.Store) *daemon {
	d := &daemon{t: t, decoder: event.NewDecoder(), cfg: aggregator.Config{
		Dir: dir, Store: st, Meters: meter.Builtin(), Retention: 30, SegmentBytes: 64 << 10,
	}}
	d.open()
	return d
}

func (d *daemon) open() {
	d.t.Helper()
	agg, err := aggregator.Open(d.cfg)
	if err != nil {
		d.t.Fatalf("open: %v", err)
	}
	d.agg = agg
}

func (d *daemon) close() {
	d.t.Helper()
	if err := d.agg.Close(); err != nil {
		d.t.Fatalf("close: %v", err)
	}
}

// skipTime returns what lets the daemon's clock skip some time, from its next open on. It takes none of the rounds that an idle
// aggregator makes every two seconds, which are a million in a few weeks of 16 partitions.
func (d *daemon) skipTime() (skip func(time.Duration)) {
	var ahead atomic.Int64
	d.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return func(by time.Duration) { ahead.Add(int64(by)) }
}

// now is the daemon's time.
func (d *daemon) now() time.Time {
	if d.cfg.Now == nil {
		return time.Now()
	}
	return d.cfg.Now()
}

// accept sends events and enters them into the ledger.
func (d *daemon) accept(l *ledger, events ...sent) {
	d.t.Helper()
	now := d.now().Truncate(time.Millisecond)
	for i, e := range events {
		if e.Late > 0 {
			events[i].CreatedAt = now.Add(-e.Late).UTC()
		}
	}
	body, err := json.Marshal(events)
	if err != nil {
		d.t.Fatal(err)
	}
	origin := event.Origin{Token: "t", User: "t", AcceptedAt: now, Oldest: d.agg.Oldest()}
	if events[0].Bound {
		origin.Bound, origin.User = true, events[0].UserID
	}
	batch, err := d.decoder.Decode(body, event.JSON, origin)
	if err != nil {
		d.t.Fatalf("decode: %v", err)
	}
	if d.older {
		unscope(batch)
	}
	if err := d.agg.Accept(batch); err != nil {
		d.t.Fatalf("accept: %v", err)
	}
	d.accepted += uint64(len(events))
	for _, e := range events {
		l.add(e, now)
	}
}

// settle waits until everything is applied and rollbacks are noticed. It belongs into a bubble.
func settle() {
	time.Sleep(30 * time.Second)
	synctest.Wait()
}

// counts reads the store the way the ledger counts.
func counts(t testing.TB, st store.Store, from, to event.Day) map[string]uint64 {
	t.Helper()
	got := map[string]uint64{}
	for _, day := range (rollup.Window{From: from, To: to}).Days() {
		types, err := st.Types(t.Context(), []event.Day{day})
		if err != nil {
			t.Fatal(err)
		}
		for typ, n := range types[0] {
			sum := uint64(0)
			err := st.Sum(t.Context(), meter.TypeRollup(typ), []event.Day{day}, func(user []byte, n uint64) {
				got[fmt.Sprintf("%s %s %s", day, typ, user)] = n
				sum += n
			})
			if err != nil {
				t.Fatal(err)
			}
			if sum != n {
				t.Errorf("%s %s: %d events by user, %d by type", day, typ, sum, n)
			}
		}
	}
	return got
}

// difference compares store and accounts with the ledger, "" where they agree. Each daemon's accounts must balance.
func difference(t testing.TB, l *ledger, st store.Store, daemons ...*daemon) string {
	today := event.DayOf(time.Now())
	if diff := cmp.Diff(l.counted, counts(t, st, today-40, today)); diff != "" {
		return "store and ledger differ (-ledger +store):\n" + diff
	}
	sum := meter.Totals{}
	for i, d := range daemons {
		acc, err := d.agg.Ledger(t.Context())
		if err != nil {
			return err.Error()
		}
		if a := acc.All; a.Accepted != d.accepted || a.Accepted != a.Counted+a.Duplicates+a.Pending+a.Damaged || a.Pending != 0 {
			return fmt.Sprintf("daemon %d accepted %d, its accounts say %+v", i, d.accepted, a)
		}
		for typ, a := range acc.Types {
			if a.Accepted != a.Counted+a.Duplicates+a.Pending {
				return fmt.Sprintf("daemon %d: accounts of %s do not balance: %+v", i, typ, a)
			}
		}
		totals, known := d.agg.Totals()
		if !known {
			return "totals are not known"
		}
		for s, n := range totals {
			sum[s] += n
		}
	}
	want := maps.Clone(l.families)
	if !slices.ContainsFunc(daemons[0].cfg.Meters, func(m meter.Meter) bool { return m.Metric != nil }) {
		maps.DeleteFunc(want, func(key string, _ uint64) bool { return strings.HasPrefix(key, "usage_") })
	}
	return compareFamilies(want, sum, len(daemons) == 1)
}
