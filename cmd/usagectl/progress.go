package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows on a terminal how far an import has come, and nothing anywhere else.
type progress struct {
	container *mpb.Progress
	bar       *mpb.Bar // nil: nobody watches
	n         atomic.Int64
}

// newProgress measures by the bytes of the files as they lie on disk, since the number of their records is not known.
func newProgress(w io.Writer, sources []*source) *progress {
	p := &progress{}
	if !isTerminal(w) {
		return p
	}
	var size int64
	for _, src := range sources {
		size += src.size
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

// read notes bytes that were read.
func (p *progress) read(n int) {
	if p.bar != nil {
		p.bar.IncrBy(n)
	}
}

// events notes events that go to the daemon.
func (p *progress) events(n int) { p.n.Add(int64(n)) }

// stop removes the bar.
func (p *progress) stop() {
	if p.bar == nil {
		return
	}
	p.bar.Abort(true)
	p.container.Wait()
}
