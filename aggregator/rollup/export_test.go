package rollup

import "context"

// Busiest orders totals as answers list them.
var Busiest = busiest

// WarmOnce fills the cache.
func (r *Reader) WarmOnce(ctx context.Context) error { return r.warmOnce(ctx) }
