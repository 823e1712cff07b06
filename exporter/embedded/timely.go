package embedded

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

const (
	// agreement is how far the machine's clock may be from the time by which the daemon goes without having jumped.
	agreement = 5 * time.Minute
	// maxAhead is how far ahead of the time a sample may be: the newest sample of all decides which ones are too old to be taken,
	// so one that is further ahead than the window for samples out of order would have all that follow it refused.
	maxAhead = outOfOrderWindow - time.Hour
)

// errAhead is what a sample from the future gets.
var errAhead = errors.New("the sample is more than 47 hours ahead of the time: set right the clock of whoever has stamped it")

// timing brings the time of the machine, by which Prometheus stamps scrapes and evaluates rules, to the one by which the daemon goes. They
// differ only while the machine's clock has jumped. Samples then go on as if it had not; without that, a clock that was days ahead
// for a moment would leave samples that make all later ones too old, and blocks would be deleted by it.
type timing struct {
	now, wall func() time.Time
}

// jump returns how far the machine's clock is ahead because it has jumped, 0 where it has not.
func (c timing) jump() time.Duration {
	if ahead := c.wall().Sub(c.now()); ahead.Abs() > agreement {
		return ahead
	}
	return 0
}

// right returns the time that is meant by one which was read from the machine's clock a moment ago.
func (c timing) right(t time.Time) time.Time {
	return time.UnixMilli(c.shift().right(t.UnixMilli()))
}

// shift is a jump at a moment, in milliseconds since 1970.
type shift struct{ now, wall, jump int64 }

func (c timing) shift() shift {
	jump := c.jump()
	now := c.now()
	return shift{now: now.UnixMilli(), wall: now.Add(jump).UnixMilli(), jump: jump.Milliseconds()}
}

// right leaves alone what is not near the machine's time: somebody else has stamped it, or it was read before the jump.
func (s shift) right(t int64) int64 {
	near := clockAhead.Milliseconds()
	if s.jump == 0 || abs(t-s.now) <= near || abs(t-s.wall) > near {
		return t
	}
	return t - s.jump
}

// latest is the last time that a sample may have.
func (s shift) latest() int64 { return max(s.now, s.now+s.jump) }

func abs(n int64) int64 { return max(n, -n) }

// evaluate evaluates a group of rules at the right time.
func (c timing) evaluate(ctx context.Context, g *rules.Group, at time.Time) {
	rules.DefaultEvalIterationFunc(ctx, g, c.right(at))
}

// handle gives a query that names no time the right one, where Prometheus would take the machine's.
func (c timing) handle(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == apiPath+"/query" && c.jump() != 0 && r.FormValue("time") == "" {
			r.Form.Set("time", strconv.FormatFloat(float64(c.now().UnixMilli())/1000, 'f', 3, 64))
		}
		next.ServeHTTP(w, r)
	})
}

// timely is what appends samples of scrapes and rules, at the right time. With received it takes those of others, who have clocks of
// their own, as they are. Neither lets any pass that is too far ahead.
type timely struct {
	timing
	next     storage.AppendableV2
	received bool
}

func (a timely) AppenderV2(ctx context.Context) storage.AppenderV2 {
	app := &timelyAppender{next: a.next.AppenderV2(ctx), shift: a.shift()}
	app.latest = app.shift.now
	if a.received { // ours may be the clock that is wrong
		app.latest, app.shift.jump = app.shift.latest(), 0
	}
	app.latest += maxAhead.Milliseconds()
	return app
}

type timelyAppender struct {
	next   storage.AppenderV2
	shift  shift
	latest int64
}

func (a *timelyAppender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram,
	opts storage.AOptions,
) (storage.SeriesRef, error) {
	t, st = a.shift.right(t), a.shift.right(st)
	if t > a.latest {
		return 0, errors.Join(storage.ErrOutOfBounds, errAhead)
	}
	opts.Exemplars = a.exemplars(opts.Exemplars)
	return a.next.Append(ref, ls, st, t, v, h, fh, opts)
}

// exemplars returns exemplars at the right time.
func (a *timelyAppender) exemplars(list []exemplar.Exemplar) []exemplar.Exemplar {
	if a.shift.jump == 0 || len(list) == 0 {
		return list
	}
	list = slices.Clone(list) // it is the caller's
	for i := range list {
		list[i].Ts = a.shift.right(list[i].Ts)
	}
	return list
}

func (a *timelyAppender) AppendExemplars(ref storage.SeriesRef, ls labels.Labels, list []exemplar.Exemplar) (storage.SeriesRef, error) {
	if next, ok := a.next.(storage.ExemplarAppenderV2); ok {
		return next.AppendExemplars(ref, ls, a.exemplars(list))
	}
	return ref, nil
}

func (a *timelyAppender) Commit() error   { return a.next.Commit() }
func (a *timelyAppender) Rollback() error { return a.next.Rollback() }

// expiry decides which blocks are deleted. Prometheus deletes what is older than the retention by the newest block; where samples from
// the future have come in, that would be everything. Here it is the time at which the daemon deletes, where that is earlier.
type expiry struct {
	retention time.Duration
	now       func() time.Time
	db        atomic.Pointer[tsdb.DB] // nil while it opens, when nothing is deleted for its age
}

func (e *expiry) blocks(blocks []*tsdb.Block) map[ulid.ULID]struct{} {
	deletable := map[ulid.ULID]struct{}{}
	// The newest come first, as tsdb.BeyondSizeRetention wants them.
	slices.SortFunc(blocks, func(a, b *tsdb.Block) int { return int(max(-1, min(1, b.Meta().MaxTime-a.Meta().MaxTime))) })
	db := e.db.Load()
	if db != nil {
		for id := range tsdb.BeyondSizeRetention(db, blocks) {
			deletable[id] = struct{}{}
		}
	}
	for _, b := range blocks {
		newest := min(blocks[0].Meta().MaxTime, e.now().UnixMilli())
		if b.Meta().Compaction.Deletable || db != nil && newest-b.Meta().MaxTime >= e.retention.Milliseconds() {
			deletable[b.Meta().ULID] = struct{}{}
		}
	}
	return deletable
}
