package aggregator

import "context"

// Busiest orders totals as answers list them.
var Busiest = busiest

// WarmOnce fills the cache.
func (r *Reader) WarmOnce(ctx context.Context) error { return r.warmOnce(ctx) }

// FailReads lets each read of the journal for the store fail with what fault returns.
func (cfg *Config) FailReads(fault func() error) { cfg.readFault = fault }
