package main

import (
	"bytes"
	"context"
	"strconv"
	"sync"
	"syscall"
	"time"

	"usaged/client"
)

const (
	memoryInterval = 2 * time.Second
	ledgerInterval = 100 * time.Millisecond
)

// vitals are what the daemon tells of its own process.
type vitals struct {
	known      bool
	cpuSeconds float64
	rssBytes   float64
}

// readVitals reads /metrics. They stay unknown where the daemon keeps them to itself.
func readVitals(ctx context.Context, c *client.Client) vitals {
	answer, err := c.Get(ctx, "/metrics", nil, "")
	if err != nil {
		return vitals{}
	}
	cpu, known := sample(answer.Body, "process_cpu_seconds_total")
	rss, _ := sample(answer.Body, "process_resident_memory_bytes")
	return vitals{known: known, cpuSeconds: cpu, rssBytes: rss}
}

// sample finds the value of a series without labels in the text format.
func sample(text []byte, name string) (value float64, ok bool) {
	for line := range bytes.Lines(text) {
		rest, found := bytes.CutPrefix(line, []byte(name+" "))
		if !found {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			return 0, false
		}
		value, err := strconv.ParseFloat(string(fields[0]), 64)
		return value, err == nil
	}
	return 0, false
}

// memoryWatch looks at the daemon's memory from time to time.
type memoryWatch struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	peak   float64
}

func watchMemory(ctx context.Context, c *client.Client) *memoryWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &memoryWatch{cancel: cancel}
	w.done.Go(func() {
		ticker := time.NewTicker(memoryInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				w.peak = max(w.peak, readVitals(ctx, c).rssBytes)
			}
		}
	})
	return w
}

// stop ends the watch and returns the highest value seen.
func (w *memoryWatch) stop() float64 {
	w.cancel()
	w.done.Wait()
	return w.peak
}

// waitSettled waits until every accepted event is counted.
func waitSettled(ctx context.Context, c *client.Client) (time.Duration, error) {
	start := time.Now()
	for {
		ledger, err := c.Ledger(ctx)
		if err != nil {
			return 0, err
		}
		if ledger.All.Pending == 0 {
			return time.Since(start), nil
		}
		if err := sleepUntil(ctx, time.Now().Add(ledgerInterval)); err != nil {
			return 0, err
		}
	}
}

// driverCPU is the CPU time that this process has used.
func driverCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
