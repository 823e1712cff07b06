package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows on a terminal how far something has come, and nothing anywhere else.
type progress struct {
	container *mpb.Progress
	bar       *mpb.Bar // nil: nobody watches
	n         atomic.Int64
}

// newProgress measures by steps, of which there are about size.
func newProgress(w io.Writer, size int64) *progress {
	p := &progress{}
	if !isTerminal(w) {
		return p
	}
	start := time.Now()
	rate := func(decor.Statistics) string {
		n := p.n.Load()
		return fmt.Sprintf("%s events, %s/s", thousands(uint64(n)), thousands(uint64(float64(n)/time.Since(start).Seconds())))
	}
	p.container = mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh())
	p.bar = p.container.AddBar(size,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Percentage(decor.WCSyncSpace)),
		mpb.AppendDecorators(decor.Any(rate, decor.WCSyncSpace), decor.Name(" ETA "), decor.AverageETA(decor.ET_STYLE_GO)),
	)
	return p
}

// step notes steps that were taken.
func (p *progress) step(n int) {
	if p.bar != nil {
		p.bar.IncrBy(n)
	}
}

// events notes events that go to the daemon.
func (p *progress) events(n int) { p.n.Add(int64(n)) }

// reach notes that so many events are done in all. Less than was noted before is nothing.
func (p *progress) reach(done uint64) {
	if more := int64(done) - p.n.Load(); more > 0 {
		p.step(int(more))
		p.events(int(more))
	}
}

// stop removes the bar.
func (p *progress) stop() {
	if p.bar == nil {
		return
	}
	p.bar.Abort(true)
	p.container.Wait()
}
