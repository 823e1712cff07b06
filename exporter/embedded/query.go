package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// ErrNotOpen says that there is nothing to ask yet, or not any more.
var ErrNotOpen = errors.New("the embedded Prometheus is not open: it may be reading its log, or has not started; the log of usaged says more")

// String names it in errors of those who ask it.
func (p *Prometheus) String() string { return "the embedded Prometheus" }

// Query returns the vector that an expression is at a time, which is now where it is zero. Samples that are native histograms
// are left out.
func (p *Prometheus) Query(ctx context.Context, expr string, at time.Time) (model.Vector, error) {
	r := p.running.Load()
	if r == nil {
		return nil, ErrNotOpen
	}
	if at.IsZero() {
		at = p.cfg.Now()
	}
	q, err := r.engine.NewInstantQuery(ctx, r.db, nil, expr, at)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	defer q.Close()
	vector, err := q.Exec(ctx).Vector()
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	samples := make(model.Vector, 0, len(vector))
	for _, s := range vector {
		if s.H != nil {
			continue
		}
		metric := make(model.Metric, s.Metric.Len())
		s.Metric.Range(func(l labels.Label) { metric[model.LabelName(l.Name)] = model.LabelValue(l.Value) })
		samples = append(samples, &model.Sample{Metric: metric, Value: model.SampleValue(s.F), Timestamp: model.Time(s.T)})
	}
	return samples, nil
}
