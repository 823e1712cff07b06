package embedded

import (
	"context"
	"fmt"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
)

// maxReceivedSeries bounds the series in the TSDB beyond which no new ones are taken by remote write.
const maxReceivedSeries = 500_000

// replicaLabel is the external label by which replicas that write to one place are told apart.
const replicaLabel = "replica"

// received is where remote write of others goes: to the TSDB, without what this daemon alone writes. Who writes here must not be able to
// change the health score or an alert: what rules record, and what the daemon exports as its own instance. Other replicas send
// what they export here, under theirs.
type received struct {
	next   storage.AppendableV2
	series func() uint64 // how many there are
	own    string        // the instance label of this daemon
}

func (r received) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &receivedAppender{r.next.AppenderV2(ctx), r.series() >= maxReceivedSeries, r.own}
}

type receivedAppender struct {
	storage.AppenderV2
	full bool
	own  string
}

// Append refuses a sample with an error that is answered with 400, so that its sender does not repeat it.
func (a *receivedAppender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram,
	opts storage.AOptions,
) (storage.SeriesRef, error) {
	if err := a.check(ls); err != nil {
		return 0, err
	}
	return a.AppenderV2.Append(ref, ls, st, t, v, h, fh, opts)
}

// AppendExemplars appends exemplars of a series.
func (a *receivedAppender) AppendExemplars(ref storage.SeriesRef, ls labels.Labels, exemplars []exemplar.Exemplar) (storage.SeriesRef, error) {
	next, ok := a.AppenderV2.(storage.ExemplarAppenderV2)
	if !ok || a.check(ls) != nil {
		return ref, nil //nolint:nilerr // its samples are refused with the error
	}
	return next.AppendExemplars(ref, ls, exemplars)
}

func (a *receivedAppender) check(ls labels.Labels) error {
	name := ls.Get(model.MetricNameLabel)
	if recordedNames.MatchString(name) || a.isOwn(ls) {
		return fmt.Errorf("%w: %s is written by this daemon alone: give it another name", storage.ErrOutOfBounds, name)
	}
	if a.full {
		return fmt.Errorf("%w: there are %d series already", storage.ErrOutOfBounds, maxReceivedSeries)
	}
	return nil
}

// isOwn says whether a series could be one that this daemon exports. Replicas in containers may well have one host name and port:
// what has a label of [replicaLabel] is another's.
func (a *receivedAppender) isOwn(ls labels.Labels) bool {
	return ls.Get(model.JobLabel) == selfJob && ls.Get(model.InstanceLabel) == a.own && !ls.Has(replicaLabel)
}
