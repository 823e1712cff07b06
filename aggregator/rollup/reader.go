// Package rollup answers questions about windows of UTC days from what a store holds: events by type and user, totals of meters,
// and how many users were active.
//
// It only reads, and needs no part of the write side: a [Reader] is given the store, the meters in force and a clock. Each answer
// begins with the versions of its days, so it is never older than the store was when the question was asked. Days whose version has not
// changed are answered from memory, which is bounded, and which a file carries over a restart; whoever deletes the file loses
// time only.
//
// A Reader is safe for concurrent use. Warm runs once beside the questions, on a goroutine of its own. A [Window] is a value.
//
//	reader := rollup.NewReader(rollup.Config{Store: st, Meters: meter.Builtin, Retention: 30})
//	go reader.Warm(ctx)
//	week := reader.Window(7)
//	types, err := reader.Summary(ctx, week, rollup.SummaryQuery{Top: 10})
//	users, err := reader.ActiveUsers(ctx, week)
package rollup

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"golang.org/x/sync/errgroup"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
)

// ErrNoReference says that a meter counts by user only.
var ErrNoReference = errors.New("the meter has no reference")

// Reader answers questions about windows of days. It is safe for concurrent use.
//
// Every answer begins with the versions of the days in the window. A day whose version is unchanged is answered from
// memory; so an event that arrives late shows at once, and days that are over cost no read.
type Reader struct {
	cfg          Config
	cache        *cache
	hits, misses *metrics.Counter
	fileErrors   *metrics.Counter
	cold         chan struct{} // has an element where Warm should run
}

// Config assembles a reader.
type Config struct {
	// Store has the rollups. Required.
	Store store.Store
	// Meters returns those in force in the aggregator that fills the store. Required.
	Meters func() []meter.Meter
	// Retention is the longest window, in days. Required.
	Retention int
	// CacheFile is where Warm keeps the cache for the next process, nowhere where it is empty. Whoever deletes it loses time only.
	CacheFile string
	// Now is the clock, time.Now where nil.
	Now func() time.Time
	// Log and Metrics may be nil.
	Log     *slog.Logger
	Metrics *metrics.Set
}

// NewReader returns a reader with what the cache's file has.
func NewReader(cfg Config) *Reader {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.NewSet()
	}
	r := &Reader{
		cfg:    cfg,
		cache:  newCache(),
		cold:   make(chan struct{}, 1),
		hits:   cfg.Metrics.GetOrCreateCounter(`usaged_reader_cache_requests_total{result="hit"}`),
		misses: cfg.Metrics.GetOrCreateCounter(`usaged_reader_cache_requests_total{result="miss"}`),

		fileErrors: cfg.Metrics.GetOrCreateCounter("usaged_reader_cache_errors_total"),
	}
	cfg.Metrics.NewGauge("usaged_reader_cache_bytes", func() float64 { return float64(r.cache.size()) })
	if cfg.CacheFile == "" {
		return r
	}
	if err := r.cache.load(cfg.CacheFile); err != nil {
		r.fileErrors.Inc()
		cfg.Log.Warn("cache file is not used; days are read from the store", "path", cfg.CacheFile, "err", err)
	}
	return r
}

// Retention returns the length of the longest window, in days.
func (r *Reader) Retention() int { return r.cfg.Retention }

// Window returns the window of n days that ends with today (UTC).
func (r *Reader) Window(n int) Window { return LastDays(event.DayOf(r.cfg.Now()), n) }

// Version returns a string that changes whenever an answer about the window may.
func (r *Reader) Version(ctx context.Context, w Window) (string, error) {
	versions, err := r.cfg.Store.Versions(ctx, w.Days())
	if err != nil {
		return "", err
	}
	h := fnv.New128a()
	fmt.Fprint(h, w.From, w.To, strings.Join(versions, " "))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)), nil
}

// Total is the total of a user or reference.
type Total struct {
	Key string
	N   uint64
}

// TypeUsers are the events of one type by user.
type TypeUsers struct {
	Type string
	// Users are in descending order of their totals, ties in order of the key.
	Users []Total
}

// SummaryQuery narrows a summary. The zero value asks for everything.
type SummaryQuery struct {
	EventType, UserID string
	// Top is the number of busiest users per type, 0 for all.
	Top int
}

// Summary returns the events by type and user, in the order of the types. A type without events in the window, or without
// any of the user asked for, is left out.
func (r *Reader) Summary(ctx context.Context, w Window, q SummaryQuery) ([]TypeUsers, error) {
	days, versions, types, err := r.window(ctx, w)
	if err != nil {
		return nil, err
	}
	if q.EventType != "" {
		if _, found := slices.BinarySearch(types, q.EventType); !found {
			return nil, nil
		}
		types = []string{q.EventType}
	}
	rollups := make([]meter.Rollup, len(types))
	for i, t := range types {
		rollups[i] = meter.TypeRollup(t)
	}
	if err := r.fill(ctx, rollups, days, versions); err != nil {
		return nil, err
	}
	sums := make([][]Total, len(types))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range types {
		group.Go(func() (err error) {
			sums[i], err = r.sum(groupCtx, rollups[i:i+1], days, versions)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var summary []TypeUsers
	for i, t := range types {
		users := sums[i]
		if q.UserID != "" {
			users = slices.DeleteFunc(users, func(total Total) bool { return total.Key != q.UserID })
		}
		if len(users) > 0 {
			summary = append(summary, TypeUsers{Type: t, Users: busiest(users, q.Top)})
		}
	}
	return summary, nil
}

// Meters returns the meters in force, in the order of their names.
func (r *Reader) Meters() []meter.Meter {
	return slices.SortedFunc(slices.Values(r.cfg.Meters()), func(a, b meter.Meter) int { return strings.Compare(a.Name, b.Name) })
}

// Meter returns the totals of a meter, the top largest or, with 0, all: in descending order, ties in order of the key. The
// error is ErrNoReference where the meter has no such dimension.
func (r *Reader) Meter(ctx context.Context, w Window, m *meter.Meter, dim meter.Dim, top int) ([]Total, error) {
	if dim == meter.ByReference && m.Reference == "" {
		return nil, ErrNoReference
	}
	days, versions, types, err := r.window(ctx, w)
	if err != nil {
		return nil, err
	}
	rollups := m.Rollups(dim, types)
	if err := r.fill(ctx, rollups, days, versions); err != nil {
		return nil, err
	}
	totals, err := r.sum(ctx, rollups, days, versions)
	return busiest(totals, top), err
}

// DayTotals are the totals of one day, by event type or by meter.
type DayTotals struct {
	Day    event.Day
	Totals map[string]uint64
}

// Daily returns the events by type of every day of the window, oldest first.
func (r *Reader) Daily(ctx context.Context, w Window) ([]DayTotals, error) {
	days := w.Days()
	types, err := r.cfg.Store.Types(ctx, days)
	if err != nil {
		return nil, err
	}
	list := make([]DayTotals, len(days))
	for i, day := range days {
		list[i] = DayTotals{Day: day, Totals: types[i]}
	}
	return list, nil
}

// DailyMeters returns what each meter counted on every day of the window, over all users, oldest first. A meter that has
// read nothing on a day is left out.
func (r *Reader) DailyMeters(ctx context.Context, w Window, meters []meter.Meter) ([]DayTotals, error) {
	list, err := r.Daily(ctx, w)
	if err != nil {
		return nil, err
	}
	days, versions, types, err := r.window(ctx, w)
	if err != nil {
		return nil, err
	}
	var summed []meter.Rollup // of meters that don't count events: that is known of each type
	for i := range meters {
		for _, rollup := range meters[i].Rollups(meter.ByUser, types) {
			if rollup.Meter != "" {
				summed = append(summed, rollup)
			}
		}
	}
	if err := r.fill(ctx, summed, days, versions); err != nil {
		return nil, err
	}
	for i := range list {
		totals := map[string]uint64{}
		for k := range meters {
			n, found, err := r.dayTotal(ctx, &meters[k], days[i], versions[i], list[i].Totals)
			if err != nil {
				return nil, err
			}
			if found {
				totals[meters[k].Name] = n
			}
		}
		list[i].Totals = totals
	}
	return list, nil
}

// dayTotal returns what a meter counted on a day with events of these types, and whether it has read any.
func (r *Reader) dayTotal(ctx context.Context, m *meter.Meter, day event.Day, version string, types map[string]uint64) (n uint64, found bool, err error) {
	for _, rollup := range m.Rollups(meter.ByUser, slices.Collect(maps.Keys(types))) {
		if rollup.Meter == "" {
			n, found = n+types[rollup.Type], true
			continue
		}
		users, err := r.sum(ctx, []meter.Rollup{rollup}, []event.Day{day}, []string{version})
		if err != nil {
			return 0, false, err
		}
		for _, user := range users {
			n, found = n+user.N, true
		}
	}
	return n, found, nil
}

// window reads what every answer begins with: the versions of the days and the types that occur in them.
func (r *Reader) window(ctx context.Context, w Window) (days []event.Day, versions, types []string, err error) {
	days = w.Days()
	if versions, err = r.cfg.Store.Versions(ctx, days); err != nil {
		return nil, nil, nil, err
	}
	var missing []int
	var missingDays []event.Day
	all := map[string]bool{}
	collect := func(day map[string]uint64) {
		for t := range day {
			all[t] = true
		}
	}
	for i, day := range days {
		if versions[i] == "" {
			continue
		}
		if t, ok := r.cache.types(day, versions[i]); ok {
			collect(t)
			continue
		}
		missing, missingDays = append(missing, i), append(missingDays, day)
	}
	if len(missing) > 0 {
		read, err := r.cfg.Store.Types(ctx, missingDays)
		if err != nil {
			return nil, nil, nil, err
		}
		for k, i := range missing {
			collect(read[k])
			r.cache.setTypes(days[i], versions[i], read[k])
		}
	}
	return days, versions, slices.Sorted(maps.Keys(all)), nil
}

// coldDays is the number of days per rollup from which on it is quicker to let the store add them up than to read each.
const coldDays = 4

// fill reads what the cache lacks, on all cores. Where that is much it leaves it to Warm, and the sums to the store.
func (r *Reader) fill(ctx context.Context, rollups []meter.Rollup, days []event.Day, versions []string) error {
	missing := r.missing(rollups, days, versions)
	if len(missing) > coldDays*len(rollups) {
		select {
		case r.cold <- struct{}{}:
		default:
		}
		return nil
	}
	return r.read(ctx, missing)
}

// place is one rollup of one day under a version.
type place struct {
	day     event.Day
	version string
	rollup  meter.Rollup
}

func (r *Reader) missing(rollups []meter.Rollup, days []event.Day, versions []string) []place {
	var missing []place
	for i, day := range days {
		for _, rollup := range rollups {
			switch {
			case versions[i] == "":
			case r.cache.has(day, versions[i], rollup):
				r.hits.Inc()
			default:
				r.misses.Inc()
				missing = append(missing, place{day, versions[i], rollup})
			}
		}
	}
	return missing
}

// read reads rollups of days into the cache, while there is room.
func (r *Reader) read(ctx context.Context, places []place) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range places {
		if r.cache.size() >= maxCacheBytes {
			break
		}
		group.Go(func() error {
			cells := &cellList{}
			if err := r.cfg.Store.Sum(ctx, p.rollup, []event.Day{p.day}, cells.append); err != nil {
				return err
			}
			after, err := r.cfg.Store.Versions(ctx, []event.Day{p.day})
			if err != nil {
				return err
			}
			r.cache.put(p, cells, after[0] == p.version)
			return nil
		})
	}
	return group.Wait()
}

// sum adds up rollups over days: from the cache, and what has no room there from the store.
func (r *Reader) sum(ctx context.Context, rollups []meter.Rollup, days []event.Day, versions []string) ([]Total, error) {
	cached, missing := r.cache.sumOf(rollups, days, versions)
	list := cached.list()
	if len(missing) == 0 {
		return list, nil
	}
	more := map[string]uint64{}
	for _, total := range list {
		more[total.Key] = total.N
	}
	for rollup, days := range missing {
		err := r.cfg.Store.Sum(ctx, rollup, days, func(key []byte, n uint64) { more[string(key)] += n })
		if err != nil {
			return nil, err
		}
	}
	list = list[:0]
	for key, n := range more {
		list = append(list, Total{key, n})
	}
	return list, nil
}

// busiest sorts totals as answers list them, and cuts them to the top.
func busiest(totals []Total, top int) []Total {
	slices.SortFunc(totals, func(a, b Total) int {
		if a.N != b.N {
			return cmp.Compare(b.N, a.N)
		}
		return strings.Compare(a.Key, b.Key)
	})
	if top > 0 && top < len(totals) {
		totals = totals[:top]
	}
	return totals
}

// saveInterval is the least time between two saves of the cache, beside the last one.
const saveInterval = 10 * time.Minute

// Warm fills the cache with the whole retention window, again after each midnight (UTC), and whenever a question met
// much that was missing, until ctx ends. It saves what it has read, and at its end all that was.
func (r *Reader) Warm(ctx context.Context) {
	defer r.save()
	var saved time.Time
	for {
		if err := r.warmOnce(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn("cache could not be filled; days are read when they are asked for", "err", err)
		}
		if time.Since(saved) >= saveInterval {
			r.save()
			saved = time.Now()
		}
		now := r.cfg.Now()
		midnight := (event.DayOf(now) + 1).Time()
		timer := time.NewTimer(midnight.Sub(now) + time.Minute) // by then the day before is nearly complete
		select {
		case <-timer.C:
		case <-r.cold:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// save keeps the cache for the next process.
func (r *Reader) save() {
	if r.cfg.CacheFile == "" {
		return
	}
	if err := r.cache.save(r.cfg.CacheFile); err != nil {
		r.fileErrors.Inc()
		r.cfg.Log.Warn("cache could not be saved; after the next start days are read from the store", "path", r.cfg.CacheFile, "err", err)
	}
}

func (r *Reader) warmOnce(ctx context.Context) error {
	w := r.Window(r.cfg.Retention)
	r.cache.keep(w.From)
	days, versions, types, err := r.window(ctx, w)
	if err != nil {
		return err
	}
	var rollups []meter.Rollup
	for _, t := range types {
		rollups = append(rollups, meter.TypeRollup(t))
	}
	meters := r.cfg.Meters()
	for i := range meters {
		m := &meters[i]
		rollups = append(rollups, m.Rollups(meter.ByUser, nil)...)
		if m.Reference != "" {
			rollups = append(rollups, m.Rollups(meter.ByReference, nil)...)
		}
	}
	return r.read(ctx, r.missing(rollups, days, versions))
}
