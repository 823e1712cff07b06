package api

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// denials are the requests that were refused because of who sent them. Each is counted; of those of one kind one is logged in
// denialInterval, with the number of those that were not, so that a flood fills no disk.
type denials struct {
	kinds [numClasses]struct {
		next    atomic.Int64 // Unix nanoseconds, before which none is logged
		skipped atomic.Int64
	}
}

const denialInterval = 10 * time.Second

// denied is whether a refusal is because of who sent the request.
func (c class) denied() bool { return c == unauthorized || c == forbidden || c == foreignUser }

// logDenial logs a refusal, never what was presented.
func (a *API) logDenial(p *problem, handler string, r *http.Request) {
	a.metrics.denied[p.class].Inc()
	kind, now := &a.denials.kinds[p.class], time.Now()
	next := kind.next.Load()
	if now.UnixNano() < next || !kind.next.CompareAndSwap(next, now.Add(denialInterval).UnixNano()) {
		kind.skipped.Add(1)
		return
	}
	attrs := []any{"code", classes[p.class].code, "handler", handler, "remote", r.RemoteAddr, "not_logged", kind.skipped.Swap(0)}
	if p.token != "" {
		attrs = append(attrs, "token", p.token)
	}
	a.log.Log(context.Background(), slog.LevelWarn, "request refused because of its sender", attrs...)
}
