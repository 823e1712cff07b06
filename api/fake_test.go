package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"

	"usaged/aggregator"
	"usaged/aggregator/event"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/aggregator/tail"
	"usaged/api"
	"usaged/api/auth"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// noon is the time of every test.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const retention = 30

// journal is an Accepter that keeps what it accepted.
type journal struct {
	mu     sync.Mutex
	events []event.Event
	err    error         // what Accept answers
	gate   chan struct{} // where not nil, Accept waits until it is closed
	panics bool
}

func (j *journal) Accept(b *event.Batch) error {
	if j.gate != nil {
		<-j.gate
	}
	if j.panics {
		panic("the journal holds " + string(b.Entries))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	n := 0
	for entries := b.Entries; len(entries) > 0; n++ {
		entry, rest := nextEntry(entries)
		entries = rest
		var v event.View
		if err := event.Parse(entry, &v); err != nil {
			panic(err)
		}
		j.events = append(j.events, v.Event("test", uint64(len(j.events))))
	}
	if n != b.N {
		panic(fmt.Sprintf("a batch of %d events has %d entries", b.N, n))
	}
	return nil
}

func nextEntry(b []byte) (entry, rest []byte) {
	var n, shift int
	for i, c := range b {
		n |= int(c&0x7f) << shift
		shift += 7
		if c < 0x80 {
			return b[i+1 : i+1+n], b[i+1+n:]
		}
	}
	panic("entries end in a length")
}

func (j *journal) accepted() []event.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

// rollups is a Reader over a fixed set of sums.
type rollups struct {
	mu      sync.Mutex
	version string
	err     error
	panics  bool
	reads   int // how often anything but the version was read
	types   []rollup.TypeUsers
	hold    chan struct{}
}

func (f *rollups) Retention() int { return retention }

func (f *rollups) Window(days int) rollup.Window {
	return rollup.LastDays(event.DayOf(noon), days)
}

func (f *rollups) Version(context.Context, rollup.Window) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version, f.err
}

func (f *rollups) read() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
}

func (f *rollups) Summary(ctx context.Context, _ rollup.Window, q rollup.SummaryQuery) ([]rollup.TypeUsers, error) {
	f.read()
	if f.panics {
		panic(fmt.Errorf("summary of %s", q.UserID))
	}
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var out []rollup.TypeUsers
	for _, t := range f.types {
		if q.EventType != "" && q.EventType != t.Type {
			continue
		}
		users := slices.DeleteFunc(slices.Clone(t.Users), func(u rollup.Total) bool { return q.UserID != "" && q.UserID != u.Key })
		if q.Top > 0 {
			users = users[:min(q.Top, len(users))]
		}
		if len(users) > 0 {
			out = append(out, rollup.TypeUsers{Type: t.Type, Users: users})
		}
	}
	return out, nil
}

func (f *rollups) Meters() []meter.Meter {
	return slices.SortedFunc(slices.Values(append(meter.Builtin(), operators...)), func(a, b meter.Meter) int { return strings.Compare(a.Name, b.Name) })
}

// operators are the meters of an operator.
var operators = []meter.Meter{{
	Name: "minutes", Description: "Minutes \"used\", by room.", Events: []string{"meeting"}, Reference: "room", Value: "minutes", Sum: []string{"talk", "wait"},
}}

func (f *rollups) Meter(_ context.Context, w rollup.Window, m *meter.Meter, dim meter.Dim, top int) ([]rollup.Total, error) {
	f.read()
	list := []rollup.Total{
		{Key: fmt.Sprintf("%s of %s for %d days", m.Name, dim, w.Len()), N: 12},
		{Key: "say \"hi\"\n\u2028\u0001", N: 3}, {Key: "ähnlich", N: 3},
	}
	if top > 0 {
		list = list[:min(top, len(list))]
	}
	return list, nil
}

func (f *rollups) Daily(_ context.Context, w rollup.Window) ([]rollup.DayTotals, error) {
	f.read()
	var list []rollup.DayTotals
	for _, d := range w.Days() {
		list = append(list, rollup.DayTotals{Day: d})
	}
	list[len(list)-1].Totals = map[string]uint64{"sql_generation": 3, "dashboard_publish": 1}
	return list, nil
}

func (f *rollups) DailyMeters(ctx context.Context, w rollup.Window, meters []meter.Meter) ([]rollup.DayTotals, error) {
	list, err := f.Daily(ctx, w)
	totals := map[string]uint64{}
	for i, m := range meters {
		totals[m.Name] = uint64(10 * (i + 1))
	}
	list[len(list)-1].Totals = totals
	return list, err
}

// rebuilds is a Rebuilder.
type rebuilds struct {
	err   error
	asked []string
}

func (f *rebuilds) MeterStates() []aggregator.MeterState {
	var list []aggregator.MeterState
	for _, m := range meter.Builtin() {
		list = append(list, aggregator.MeterState{Meter: m, Complete: true})
	}
	state := aggregator.MeterState{Meter: operators[0], Since: noon.Add(-time.Hour)}
	if len(f.asked) > 0 {
		state.Rebuild = &aggregator.RebuildState{Phase: aggregator.RebuildRunning, Events: 1000, Done: 250}
	}
	return append(list, state)
}

func (f *rebuilds) RebuildMeter(name string) error {
	if f.err != nil {
		return f.err
	}
	if !slices.ContainsFunc(f.MeterStates(), func(m aggregator.MeterState) bool { return m.Name == name }) {
		return aggregator.ErrNoMeter
	}
	f.asked = append(f.asked, name)
	return nil
}

// books is a Ledger.
type books struct {
	err error
	// pending is how many events are pending where reads ask, −1 where that is not known.
	pending *atomic.Int64
}

func (b books) Pending() (n uint64, known bool) {
	if b.pending == nil {
		return 0, true
	}
	p := b.pending.Load()
	return uint64(max(p, 0)), p >= 0
}

func (b books) Ledger(context.Context) (*ledger.Report, error) {
	if b.err != nil {
		return nil, b.err
	}
	acc := ledger.Account{Accepted: 10, Counted: 6, Duplicates: 2, Pending: 2}
	all := acc
	all.Accepted, all.Damaged = 11, 1
	return &ledger.Report{
		Producers: []string{"0193a1"}, All: all, Types: map[string]ledger.Account{"sql_generation": acc, "b": {}},
		Others: []ledger.Other{{ID: "0193b2", Counted: 5, Duplicates: 1}},
	}, nil
}

// tailless is a Tailer that cannot.
type tailless struct{ err error }

func (f tailless) TailAfter(tail.Cursor) (*tail.Reader, error) { return nil, f.err }
func (f tailless) TailSince(time.Time) (*tail.Reader, error)   { return nil, f.err }

// rig is an API with everything around it.
type rig struct {
	journal *journal
	rollups *rollups
	cfg     api.Config
	set     *metrics.Set
	reg     *prometheus.Registry
	log     *syncBuffer
	handler http.Handler
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// tokenOf is the token of a role in tests.
func tokenOf(role string) string { return "usaged_" + role + "_test" }

func writeTokens(t testing.TB, path string) {
	t.Helper()
	var b strings.Builder
	for _, role := range auth.RoleNames() {
		fmt.Fprintf(&b, "- name: the-%s\n  role: %s\n  sha256: %x\n", role, role, sha256.Sum256([]byte(tokenOf(role))))
		if role == "user" {
			b.WriteString("  user_id: alice\n")
		}
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newRig builds an API; edit may change the configuration before.
func newRig(t testing.TB, edit ...func(*api.Config)) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens.yml")
	writeTokens(t, path)
	tokens, err := auth.LoadTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		journal: &journal{},
		rollups: &rollups{version: "v1", types: []rollup.TypeUsers{
			{Type: "dashboard_publish", Users: []rollup.Total{{Key: "alice", N: 1}}},
			{Type: "sql_generation", Users: []rollup.Total{{Key: "bob", N: 7}, {Key: "alice", N: 2}, {Key: "carol", N: 2}}},
		}},
		set: metrics.NewSet(), reg: prometheus.NewPedanticRegistry(), log: &syncBuffer{},
	}
	r.cfg = api.Config{
		Accepter: r.journal, Reader: r.rollups, Ledger: books{}, Meters: &rebuilds{}, Tails: tailless{errDisk}, Tokens: tokens,
		Health: healthOf{drop()}, Quiet: newQuiet(t), Accepted: newAccepted(t), Backfill: newBackfills(), Clock: &wrongClock{}, Labels: labelRoom{meter.NewLabels(meter.Limits{})}, Retention: &lowered{},
		Now: func() time.Time { return noon }, Logger: slog.New(slog.NewTextHandler(io.MultiWriter(r.log, t.Output()), nil)),
		Set: r.set, Registerer: r.reg,
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") }),
	}
	for _, f := range edit {
		f(&r.cfg)
	}
	if r.handler, err = api.New(r.cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

// call answers one request without a network.
func (r *rig) call(method, target, role, body string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	if role != "" {
		req.Header.Set("Authorization", "Bearer "+tokenOf(role))
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	r.handler.ServeHTTP(rec, req)
	return rec
}

// labelRoom is a LabelRoom in memory.
type labelRoom struct{ labels *meter.Labels }

func (l labelRoom) LabelStates() []meter.LabelState          { return l.labels.States() }
func (l labelRoom) FreeLabel(value string) ([]string, error) { return l.labels.Free(value), nil }

var errDisk = errors.New("the disk is on fire")
