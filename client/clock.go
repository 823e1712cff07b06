package client

import (
	"context"
	"net/http"
	"time"
)

// Paths of the server's clock.
const (
	ClockPath       = "/api/v1/usage/clock"
	acceptClockPath = ClockPath + "/accept"
)

// Clock is what a server knows of the time.
type Clock struct {
	// Time is the time by which events are stamped, Wall what the wall clock of the server's machine says.
	Time time.Time `json:"time"`
	Wall time.Time `json:"wall"`
	// JumpSeconds is how far the wall clock is ahead because it has jumped; negative where it is behind, 0 where it is right.
	JumpSeconds float64 `json:"jump_seconds"`
	// Deletion is the time by which old data is deleted.
	Deletion time.Time `json:"deletion"`
}

// Clock reads what the server knows of the time.
func (c *Client) Clock(ctx context.Context) (*Clock, error) {
	return read[Clock](ctx, c, ClockPath, Query{})
}

// AcceptClock makes what the wall clock of the server's machine says the time by which events are stamped and old data is
// deleted.
func (c *Client) AcceptClock(ctx context.Context) (*Clock, error) {
	answer, err := c.do(ctx, request{method: http.MethodPost, path: acceptClockPath})
	if err != nil {
		return nil, err
	}
	return parse[Clock](acceptClockPath, answer)
}
