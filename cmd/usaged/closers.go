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

// stopPatience is how long a step may take without being told of.
const stopPatience = time.Second

// close runs every step, each within stopTimeout, and names those that fail. A step that hangs is left behind.
func (c *closers) close(log *slog.Logger) error {
	var errs []error
	for i := len(c.steps) - 1; i >= 0; i-- {
		step := c.steps[i]
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		slow := time.AfterFunc(stopPatience, func() {
			log.Info("still stopping", "waiting_for", step.name, "at_most_seconds", stopTimeout.Seconds())
		})
		done := make(chan error, 1)
		go func() { done <- step.close(ctx) }()
		select {
		case err := <-done:
			if err != nil {
				errs = append(errs, fmt.Errorf("close %s: %w", step.name, err))
			}
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("close %s: not done after %s", step.name, stopTimeout))
		}
		cancel()
		slow.Stop()
		log.Debug("closed", "step", step.name, "elapsed_seconds", time.Since(began).Seconds())
	}
	c.steps = nil
	return errors.Join(errs...)
}
