package remotewrite

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
)

const (
	// maxWaiting bounds the exemplars that wait for a sender.
	maxWaiting = 20_000
	// maxLate bounds the late samples that wait for a sender.
	maxLate = 200_000
	// maxDescribed bounds the metadata that is remembered, in metrics.
	maxDescribed = 20_000
)

// Tap passes samples on to a TSDB, and tells the senders what reading the TSDB by time could not: which samples came late,
// what the metrics mean, and which exemplars came with them. It is safe for concurrent use; its appenders are not.
type Tap struct {
	next storage.AppendableV2

	// sealed is the latest time up to which any sender has begun to read: what is appended up to it is late.
	sealed atomic.Int64

	mu        sync.Mutex
	open      map[*appender]struct{} // appenders with samples that are not committed yet
	senders   map[*sender]struct{}
	described map[string]description // by metric name
	// last has the last exemplar of each series that has some, so that one is taken once; older has those of series that were not seen
	// since last was begun.
	last, older map[uint64]exemplar.Exemplar
}

// description is what a scrape said about a metric.
type description struct {
	family string
	metadata.Metadata
}

// point names a sample: labels.Hash of its series, and its time.
type point struct {
	series uint64
	t      int64
}

// lateness is a late sample that waits for a sender.
type lateness struct {
	point
	committed int64 // when it was committed
}

// labelled is an exemplar with its series.
type labelled struct {
	series labels.Labels
	exemplar.Exemplar
}

// NewTap returns a tap in front of a TSDB.
func NewTap(next storage.AppendableV2) *Tap {
	t := &Tap{
		next:      next,
		open:      map[*appender]struct{}{},
		senders:   map[*sender]struct{}{},
		described: map[string]description{},
		last:      map[uint64]exemplar.Exemplar{},
	}
	t.sealed.Store(math.MinInt64)
	return t
}

// AppenderV2 returns an appender of the TSDB.
func (t *Tap) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &appender{tap: t, next: t.next.AppenderV2(ctx), min: math.MaxInt64}
}

// seal says up to where a sender may read: not beyond until, nor beyond samples that are about to be committed. What is
// appended up to there from now on is late.
func (t *Tap) seal(s *sender, until int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for a := range t.open {
		until = min(until, a.min-1)
	}
	s.readTo = max(s.readTo, until)
	t.sealed.Store(max(t.sealed.Load(), s.readTo))
	return until
}

// flooded says whether more has come late for a sender than it may hold, and from which time on it is to read again then.
func (t *Tap) flooded(s *sender) (earliest int64, flooded bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !s.flooded {
		return 0, false
	}
	s.flooded = false
	earliest = s.state.earliest()
	t.lower(s, earliest-1)
	return earliest, true
}

// unseal lets a sender read again from a time on: its clock has gone back.
func (t *Tap) unseal(s *sender, to int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lower(s, to)
}

// lower needs mu.
func (t *Tap) lower(s *sender, to int64) {
	s.readTo = to
	sealed := int64(math.MinInt64)
	for other := range t.senders {
		sealed = max(sealed, other.readTo)
	}
	t.sealed.Store(sealed)
}

func (t *Tap) join(s *sender) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.senders[s] = struct{}{}
	t.sealed.Store(max(t.sealed.Load(), s.readTo))
}

// replace lets a sender take the place of one that has stopped, without a moment in which late samples would be noted for neither.
func (t *Tap) replace(old, s *sender) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.senders, old)
	for _, l := range old.late { // what lies ahead of the cursor is read again anyway
		if l.t <= s.readTo {
			s.late = append(s.late, l)
		}
	}
	s.flooded, s.exemplars = old.flooded, old.exemplars
	t.senders[s] = struct{}{}
	t.lower(s, s.readTo)
}

func (t *Tap) leave(s *sender) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.senders, s)
}

// takeLate gives a sender the late samples that were committed by a time. Those of the same commit that were not late are
// read at that time too, so that they go together.
func (t *Tap) takeLate(s *sender, by int64) []lateness {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(s.late) && s.late[n].committed <= by {
		n++
	}
	taken := s.late[:n:n]
	s.late = s.late[n:]
	return taken
}

// giveBack lets late samples wait that could not be sent.
func (t *Tap) giveBack(s *sender, late []lateness) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.late = append(late, s.late...)
}

// settle notes that no late sample waits, unless one has come meanwhile.
func (t *Tap) settle(s *sender) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(s.late) > 0 || s.flooded || len(t.open) > 0 { // one of the open appenders may have announced some
		return nil
	}
	return s.state.settle()
}

// takeExemplars gives a sender up to limit of the exemplars that wait for it.
func (t *Tap) takeExemplars(s *sender, limit int) []labelled {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(limit, len(s.exemplars))
	taken := s.exemplars[:n:n]
	s.exemplars = s.exemplars[n:]
	return taken
}

// describe returns what is known of a metric.
func (t *Tap) describe(metric string) description {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.described[metric]
}

// families returns the metadata of all metric families.
func (t *Tap) families() map[string]metadata.Metadata {
	t.mu.Lock()
	defer t.mu.Unlock()
	families := make(map[string]metadata.Metadata, len(t.described))
	for _, d := range t.described {
		families[d.family] = d.Metadata
	}
	return families
}

// appender notes what goes through it.
type appender struct {
	tap  *Tap
	next storage.AppenderV2

	min       int64 // time of its earliest sample; written under tap.mu
	late      []point
	exemplars []labelled
}

// Append appends a sample.
func (a *appender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram,
	opts storage.AOptions,
) (storage.SeriesRef, error) {
	a.enter(t)
	ref, err := a.next.Append(ref, ls, st, t, v, h, fh, opts)
	if err != nil && !errors.Is(err, &storage.AppendPartialError{}) {
		return ref, err
	}
	// Whether it is late is asked after enter, which keeps the seal from moving over it.
	if t <= a.tap.sealed.Load() {
		a.late = append(a.late, point{ls.Hash(), t})
	}
	a.tap.learn(ls, opts)
	a.note(ls, opts.Exemplars)
	return ref, err
}

// AppendExemplars appends exemplars of a series, as receivers of remote write do.
func (a *appender) AppendExemplars(ref storage.SeriesRef, ls labels.Labels, exemplars []exemplar.Exemplar) (storage.SeriesRef, error) {
	next, ok := a.next.(storage.ExemplarAppenderV2)
	if !ok {
		return ref, nil
	}
	ref, err := next.AppendExemplars(ref, ls, exemplars)
	if err == nil {
		a.note(ls, exemplars)
	}
	return ref, err
}

// enter announces a sample, so that no sender reads past its time before it is committed.
func (a *appender) enter(t int64) {
	if t >= a.min {
		return
	}
	a.tap.mu.Lock()
	defer a.tap.mu.Unlock()
	a.min = t
	a.tap.open[a] = struct{}{}
}

func (a *appender) note(ls labels.Labels, exemplars []exemplar.Exemplar) {
	for _, e := range exemplars {
		a.exemplars = append(a.exemplars, labelled{ls, e})
	}
}

// Commit commits. Late samples are announced in the cursor files first: a crash after the commit sends them again.
func (a *appender) Commit() error {
	if err := a.tap.announce(a.late); err != nil {
		return errors.Join(err, a.Rollback())
	}
	err := a.next.Commit()
	a.tap.finish(a, err == nil)
	return err
}

// Rollback takes everything back.
func (a *appender) Rollback() error {
	err := a.next.Rollback()
	a.tap.finish(a, false)
	return err
}

// learn remembers the metadata of a metric.
func (t *Tap) learn(ls labels.Labels, opts storage.AOptions) {
	if opts.Metadata.IsEmpty() {
		return
	}
	name := ls.Get(model.MetricNameLabel)
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.described[name]
	if ok && known.Metadata == opts.Metadata || !ok && len(t.described) >= maxDescribed {
		return
	}
	t.described[strings.Clone(name)] = description{strings.Clone(opts.MetricFamilyName), opts.Metadata}
}

// announce notes late samples in the cursor files of the senders that have read past them.
func (t *Tap) announce(late []point) error {
	if len(late) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for s := range t.senders {
		earliest := int64(math.MaxInt64)
		for _, p := range late {
			if p.t <= s.readTo {
				earliest = min(earliest, p.t)
			}
		}
		if earliest < math.MaxInt64 {
			errs = append(errs, s.state.announce(earliest))
		}
	}
	return errors.Join(errs...)
}

// finish gives the senders what an appender has noted.
func (t *Tap) finish(a *appender, committed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, a)
	if !committed {
		return
	}
	fresh := t.fresh(a.exemplars)
	for s := range t.senders {
		s.queue(a.late, fresh)
	}
}

// queue lets samples and exemplars of one commit wait for the sender. It needs tap.mu.
func (s *sender) queue(late []point, exemplars []labelled) {
	now := s.now().UnixMilli()
	for _, p := range late {
		if p.t <= s.readTo && !s.flooded {
			s.late = append(s.late, lateness{p, now})
		}
	}
	if len(s.late) > maxLate {
		s.late, s.flooded = nil, true
	}
	if !s.cfg.SendExemplars {
		return
	}
	room := max(maxWaiting-len(s.exemplars), 0)
	if len(exemplars) > room {
		s.metrics.exemplars.WithLabelValues(s.name, outcomeDropped).Add(float64(len(exemplars) - room))
		exemplars = exemplars[:room]
	}
	s.exemplars = append(s.exemplars, exemplars...)
}

// fresh returns the exemplars that are not those which their series had before: a target shows one until it has another.
func (t *Tap) fresh(exemplars []labelled) (fresh []labelled) {
	if len(t.senders) == 0 {
		return nil
	}
	for _, e := range exemplars {
		series := e.series.Hash()
		if last, ok := t.lastOf(series); !ok || !last.Equals(e.Exemplar) {
			fresh = append(fresh, e)
		}
		t.remember(series, e.Exemplar)
	}
	return fresh
}

// lastOf returns the last exemplar of a series, as far as it is remembered.
func (t *Tap) lastOf(series uint64) (last exemplar.Exemplar, ok bool) {
	if last, ok = t.last[series]; !ok {
		last, ok = t.older[series]
	}
	return last, ok
}

// remember keeps the last exemplar of a series. Series that show none any more are forgotten, so that new ones have room: what was not
// seen while as many others were goes. The exemplar of such a series may be sent again.
func (t *Tap) remember(series uint64, e exemplar.Exemplar) {
	if _, ok := t.last[series]; !ok && len(t.last) >= maxDescribed {
		t.older, t.last = t.last, map[uint64]exemplar.Exemplar{}
	}
	t.last[series] = e
}
