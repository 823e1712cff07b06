package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// closers releases what was acquired, the last first.
type closers struct{ steps []closer }

type closer struct {
	name  string
	close func(context.Context) error
}

func (c *closers) push(name string, close func(context.Context) error) {
	c.steps = append(c.steps, closer{name, close})
}

const (
	// stopTimeout bounds the whole stop. It is less than the 30 s that Kubernetes gives a container before it kills it.
	stopTimeout = 25 * time.Second
	// stepTimeout bounds each step, so that a file that matters little cannot use up the time of the journal.
	stepTimeout = 12 * time.Second
	// stepShare is what every step gets at least, also where those before it have hung.
	stepShare = time.Second
	// stopPatience is how long a step may take without being told of.
	stopPatience = time.Second
)

// close runs every step and names those that fail. A step may take stepTimeout, and no more than what is left of stopTimeout
// without the shares of those that follow. One that hangs, on a disk that does not answer for example, is left behind: what it would have written is written by
// nobody, and the next start does as after a crash.
func (c *closers) close(log *slog.Logger) error {
	deadline := time.Now().Add(stopTimeout)
	var errs []error
	for i := len(c.steps) - 1; i >= 0; i-- {
		limit := min(max(time.Until(deadline)-time.Duration(i)*stepShare, stepShare), stepTimeout)
		errs = append(errs, c.steps[i].run(log, limit))
	}
	c.steps = nil
	return errors.Join(errs...)
}

// run runs one step.
func (c *closer) run(log *slog.Logger, limit time.Duration) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	slow := time.AfterFunc(stopPatience, func() {
		log.Info("still stopping", "waiting_for", c.name, "at_most_seconds", limit.Seconds())
	})
	defer slow.Stop()
	done := make(chan error, 1)
	go func() { done <- c.close(ctx) }()
	select {
	case err := <-done:
		log.Debug("closed", "step", c.name, "elapsed_seconds", time.Since(began).Seconds())
		if err != nil {
			return fmt.Errorf("close %s: %w", c.name, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close %s: not done after %.0f s and left behind: what was acknowledged is durable; look for a disk that hangs", c.name, limit.Seconds())
	}
}
