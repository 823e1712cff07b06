package embedded

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
)

func init() { tendEvery = 50 * time.Millisecond }

// Compact compacts the TSDB, as it does by itself every other hour.
func (p *Prometheus) Compact(ctx context.Context) error { return p.running.Load().db.Compact(ctx) }

// Append appends samples, the newest of which is of now.
func (p *Prometheus) Append(ctx context.Context, series labels.Labels, samples int) error {
	app := p.running.Load().db.AppenderV2(ctx)
	now := time.Now()
	for i := range samples {
		at := now.Add(time.Duration(i-samples+1) * time.Second).UnixMilli()
		if _, err := app.Append(0, series, 0, at, float64(i), nil, nil, storage.AOptions{}); err != nil {
			return err
		}
	}
	return app.Commit()
}
