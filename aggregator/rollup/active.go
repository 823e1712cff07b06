package rollup

import (
	"context"

	"usaged/aggregator/meter"
)

// ActiveUsers returns the number of users with an event in the window.
func (r *Reader) ActiveUsers(ctx context.Context, w Window) (int, error) {
	days, versions, types, err := r.window(ctx, w)
	if err != nil {
		return 0, err
	}
	var rollups []meter.Rollup
	for _, t := range types {
		rollups = append(rollups, meter.TypeRollup(t))
	}
	if err := r.fill(ctx, rollups, days, versions); err != nil {
		return 0, err
	}
	users, err := r.sum(ctx, rollups, days, versions)
	return len(users), err
}
