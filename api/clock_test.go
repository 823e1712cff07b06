package api_test

import (
	"time"

	"usaged/aggregator/clock"
)

// wrongClock is a wall clock that is 60 days ahead until it is accepted.
type wrongClock struct {
	accepted bool
	err      error
}

func (c *wrongClock) State() clock.State {
	const jump = 60 * 24 * time.Hour
	if c.accepted {
		return clock.State{Now: noon.Add(jump), Wall: noon.Add(jump), Deletion: noon.Add(jump)}
	}
	return clock.State{Now: noon, Wall: noon.Add(jump), Deletion: noon.Add(-time.Hour), Jump: jump, Jumps: 1}
}

func (c *wrongClock) Accept() (clock.State, error) {
	c.accepted = c.err == nil
	return c.State(), c.err
}
