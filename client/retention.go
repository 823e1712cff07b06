package client

import (
	"context"
	"net/http"
	"time"
)

// Paths of the server's retention.
const (
	RetentionPath      = "/api/v1/usage/retention"
	applyRetentionPath = RetentionPath + "/apply"
)

// Retention says for how many days a server keeps what it has counted.
type Retention struct {
	// Days is how many days can be asked for, KeptDays how many are kept.
	Days     int `json:"days"`
	KeptDays int `json:"kept_days"`
	// KeptUnknown says that the server does not know how many days it kept before; KeptDays is then as many as can be.
	KeptUnknown bool `json:"kept_unknown,omitzero"`
	// Pending is what will be deleted because fewer days are asked for than are kept, nil where that is nothing.
	Pending *ExpiringDays `json:"pending,omitempty"`
	// Restored are days that were deleted while fewer days were kept, and are counted again from the journal; nil where there are none.
	Restored *RestoredDays `json:"restored,omitempty"`
}

// RestoredDays are days that are counted again from the journal.
type RestoredDays struct {
	// Phase is "waiting", "running" or "done".
	Phase string `json:"phase"`
	// From and To are the first and the last of the days (2006-01-02), Days is how many they are.
	From string `json:"from"`
	To   string `json:"to"`
	Days int    `json:"days"`
	// Events is how many events of the journal are read, Done how many have been.
	Events uint64 `json:"events"`
	Done   uint64 `json:"done"`
	// Incomplete are those whose events may have left the journal, or be counted by another replica alone.
	Incomplete []string `json:"incomplete_days,omitempty"`
}

// ExpiringDays are days that will be deleted.
type ExpiringDays struct {
	Due time.Time `json:"due"`
	// From and To are the days (2006-01-02), empty where none of them has any events.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Events is how many events the days have, RawEvents how many leave the journal.
	Events    uint64 `json:"events"`
	RawEvents uint64 `json:"raw_events"`
}

// Retention reads for how many days the server keeps what it has counted.
func (c *Client) Retention(ctx context.Context) (*Retention, error) {
	return read[Retention](ctx, c, RetentionPath, Query{})
}

// ApplyRetention has the server delete at once what it would delete within a day.
func (c *Client) ApplyRetention(ctx context.Context) (*Retention, error) {
	answer, err := c.do(ctx, request{method: http.MethodPost, path: applyRetentionPath})
	if err != nil {
		return nil, err
	}
	return parse[Retention](applyRetentionPath, answer)
}
