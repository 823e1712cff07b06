package embedded

import "context"

// Compact compacts the TSDB, as it does by itself every other hour.
func (p *Prometheus) Compact(ctx context.Context) error { return p.running.Load().db.Compact(ctx) }
