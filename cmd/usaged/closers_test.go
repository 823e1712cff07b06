package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestStopWithStepsThatHang stops in time whatever hangs, names it, and still runs every other step.
func TestStopWithStepsThatHang(t *testing.T) {
	t.Parallel()
	steps := []string{"directory", "store", "journal", "server"}
	for name, hanging := range map[string][]string{
		"none": nil, "one": {"journal"}, "the first to stop": {"server"}, "all": steps,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				disk := make(chan struct{}) // closed when it answers
				defer close(disk)
				var open closers
				ran := map[string]bool{}
				for _, step := range steps {
					open.push(step, func(context.Context) error {
						ran[step] = true
						for _, h := range hanging {
							if h == step {
								<-disk
							}
						}
						return nil
					})
				}
				began := time.Now()
				err := open.close(slog.New(slog.DiscardHandler))
				if elapsed := time.Since(began); elapsed > stopTimeout {
					t.Errorf("the stop took %s, want %s at most", elapsed, stopTimeout)
				}
				if len(ran) != len(steps) {
					t.Errorf("ran %v, want all of %v", ran, steps)
				}
				if (err != nil) != (len(hanging) > 0) {
					t.Errorf("close: %v", err)
				}
				for _, h := range hanging {
					if !strings.Contains(err.Error(), "close "+h+": ") {
						t.Errorf("%v does not name %s", err, h)
					}
				}
			})
		})
	}
}

// TestStopWithAStepThatFails runs the steps before it too, the last first.
func TestStopWithAStepThatFails(t *testing.T) {
	t.Parallel()
	var open closers
	var order []string
	for _, step := range []string{"a", "b", "c"} {
		open.push(step, func(context.Context) error {
			order = append(order, step)
			if step == "b" {
				return errors.New("the disk is gone")
			}
			return nil
		})
	}
	err := open.close(slog.New(slog.DiscardHandler))
	if err == nil || err.Error() != "close b: the disk is gone" || strings.Join(order, "") != "cba" {
		t.Errorf("close: %v, in the order %v", err, order)
	}
}
