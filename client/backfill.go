package client

import (
	"context"
	"net/http"
	"time"
)

// BackfillPath is where the server is asked to write the past into its Prometheus.
const BackfillPath = "/api/v1/usage/backfill"

// Backfill says how far the writing of the past is.
type Backfill struct {
	// Phase is idle, waiting, reading or writing.
	Phase string `json:"phase"`
	// Events is the number of events in the server's journal that are read, Done how many have been.
	Events uint64 `json:"events"`
	Done   uint64 `json:"done"`
	// Error is why the last attempt failed. It is made again.
	Error string `json:"error,omitempty"`
	// Last is nil where there was none yet.
	Last *BackfillReport `json:"last,omitempty"`
}

// BackfillReport is what a backfill did.
type BackfillReport struct {
	Finished time.Time `json:"finished"`
	// Seconds is how long it took, without waiting.
	Seconds float64 `json:"seconds"`
	// Events is how many events were counted, of so many Types, and Samples how many samples the past has.
	Events  uint64 `json:"events"`
	Types   int    `json:"types"`
	Samples uint64 `json:"samples"`
	// From and Until are the time that was written, From zero where nothing was.
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until"`
	// Known is the time from which on the server's journal has everything, zero where nothing has been removed from it.
	Known time.Time `json:"known,omitzero"`
}

// Backfill has the server write what it knows of the past into its Prometheus. The work goes on after the answer: BackfillState
// says how far it is.
func (c *Client) Backfill(ctx context.Context) (*Backfill, error) {
	answer, err := c.do(ctx, request{method: http.MethodPost, path: BackfillPath})
	if err != nil {
		return nil, err
	}
	return parse[Backfill](BackfillPath, answer)
}

// BackfillState reads how far the server is.
func (c *Client) BackfillState(ctx context.Context) (*Backfill, error) {
	return read[Backfill](ctx, c, BackfillPath, Query{})
}
