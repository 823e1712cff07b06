package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"usaged/aggregator"
	"usaged/aggregator/retention"
	"usaged/api/auth"
)

// Retainer says how many days are kept.
type Retainer interface {
	// Retention also says what will be deleted because fewer are asked for. It fails where the store is away.
	Retention(ctx context.Context) (*aggregator.Retention, error)
	// ApplyRetention has that deleted now, and returns when it is noted durably.
	ApplyRetention(ctx context.Context) (*aggregator.Retention, error)
}

// retentionAnswer is how many days are kept, as clients see it.
type retentionAnswer struct {
	Days        int           `json:"days"`
	KeptDays    int           `json:"kept_days"`
	KeptUnknown bool          `json:"kept_unknown,omitzero"`
	Pending     *expiringDays `json:"pending,omitempty"`
	Restored    *restoredDays `json:"restored,omitempty"`
}

// restoredDays are days that were deleted while fewer days were kept, and are counted again.
type restoredDays struct {
	Phase      string   `json:"phase"`
	From       string   `json:"from"`
	To         string   `json:"to"`
	Days       int      `json:"days"`
	Events     uint64   `json:"events"`
	Done       uint64   `json:"done"`
	Incomplete []string `json:"incomplete_days,omitempty"`
}

// expiringDays is what will be deleted because fewer days are asked for.
type expiringDays struct {
	Due       time.Time `json:"due"`
	From      string    `json:"from,omitempty"`
	To        string    `json:"to,omitempty"`
	Events    uint64    `json:"events"`
	RawEvents uint64    `json:"raw_events"`
}

// getRetention answers how many days are kept.
func (a *API) getRetention(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	return a.answerRetention(w, r, a.cfg.Retention.Retention)
}

// postRetention has deleted now what would be deleted within a day.
func (a *API) postRetention(w http.ResponseWriter, r *http.Request, who *auth.Token) error {
	return a.answerRetention(w, r, func(ctx context.Context) (*aggregator.Retention, error) {
		a.log.Warn("deleting what is beyond the retention was asked for", "token", who.Name)
		return a.cfg.Retention.ApplyRetention(ctx)
	})
}

func (a *API) answerRetention(w http.ResponseWriter, r *http.Request, ask func(context.Context) (*aggregator.Retention, error)) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	state, err := ask(r.Context())
	if errors.Is(err, retention.ErrNotSaved) {
		return err
	}
	if err != nil {
		return refuseReading(r, fmt.Errorf("read the retention: %w", err))
	}
	answer := retentionAnswer{Days: state.Days, KeptDays: state.Kept, KeptUnknown: state.Lost}
	if r := state.Restored; r != nil {
		answer.Restored = &restoredDays{
			Phase: r.Phase, From: r.From.String(), To: r.To.String(), Days: r.Days, Events: r.Events, Done: r.Done,
		}
		for _, day := range r.Incomplete {
			answer.Restored.Incomplete = append(answer.Restored.Incomplete, day.String())
		}
	}
	if state.Pending() {
		answer.Pending = &expiringDays{Due: state.Due.UTC().Truncate(time.Second), Events: state.Events, RawEvents: state.Raw}
		if state.From <= state.To {
			answer.Pending.From, answer.Pending.To = state.From.String(), state.To.String()
		}
	}
	return writeJSON(w, answer)
}
