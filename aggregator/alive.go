package aggregator

import (
	"context"
	"time"
)

// mortal is a store that several data directories share, and that knows which of them are in use.
type mortal interface {
	Alive(ctx context.Context, producer string, lives time.Duration) (int, error)
}

// Alive tells the store that this producer lives for as long as given, and returns how many do: itself, and others that have
// applied anything, or met the store. It is 1 where no others can share the store.
func (a *Aggregator) Alive(ctx context.Context, lives time.Duration) (int, error) {
	st, shared := a.cfg.Store.(mortal)
	if !shared {
		return 1, nil
	}
	ids := a.producers()
	return st.Alive(ctx, ids[len(ids)-1], lives)
}
