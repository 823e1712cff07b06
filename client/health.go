package client

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Paths of the score and of quiet times, for [Client.Get].
const (
	HealthPath = "/api/v1/usage/health"
	AcceptPath = "/api/v1/usage/health/accept"
	QuietPath  = "/api/v1/usage/quiet"
)

// Health is the score of all event types together, and that of each.
type Health struct {
	Subject
	// EvaluatedAt is nil where no rules are evaluated.
	EvaluatedAt *time.Time `json:"evaluated_at"`
	Types       Subjects   `json:"event_types"`
}

// Subject is the score of an event type, or of all of them.
type Subject struct {
	// Mode is normal, watch, degraded, critical, unjudged or unknown.
	Mode string `json:"mode"`
	// Judged says whether activity is part of the score.
	Judged bool `json:"judged"`
	// Score is from 0 to 100, nil where it is unknown.
	Score *float64 `json:"score"`
	// Since is when the mode became what it is; nil where nobody remembers.
	Since *time.Time `json:"since"`
	// Reason says why the mode is unknown.
	Reason     *string    `json:"reason"`
	Text       string     `json:"text"`
	Components Components `json:"components"`
}

// Component is a part of a score.
type Component struct {
	Weight float64 `json:"weight"`
	// Value is from 0 to 1, nil where nothing is known.
	Value *float64 `json:"value"`
	// Unit of what follows: events, ratio or seconds.
	Unit     string   `json:"unit"`
	Window   *string  `json:"window"`
	Observed *float64 `json:"observed"`
	Expected *float64 `json:"expected"`
	Band     *Band    `json:"band"`
	Reason   *string  `json:"reason"`
	Text     string   `json:"text"`
}

// Band is what is usual.
type Band struct {
	Lower float64 `json:"lower"`
	Upper float64 `json:"upper"`
}

// Named is a member of an object.
type Named[T any] struct {
	Name  string
	Value T
}

// Subjects are a JSON object that keeps the server's order.
type Subjects []Named[Subject]

// Components are, too.
type Components []Named[Component]

// UnmarshalJSONFrom reads an object.
func (l *Subjects) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return members(dec, (*[]Named[Subject])(l))
}

// UnmarshalJSONFrom reads an object.
func (l *Components) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return members(dec, (*[]Named[Component])(l))
}

func members[T any](dec *jsontext.Decoder, list *[]Named[T]) error {
	open, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if open.Kind() != '{' {
		return fmt.Errorf("an object is due, not %v", open.Kind())
	}
	*list = nil
	for dec.PeekKind() != '}' {
		var m Named[T]
		if err := json.UnmarshalDecode(dec, &m.Name); err != nil {
			return err
		}
		if err := json.UnmarshalDecode(dec, &m.Value); err != nil {
			return err
		}
		*list = append(*list, m)
	}
	_, err = dec.ReadToken()
	return err
}

// NewNormal is what an operator has accepted of an event type.
type NewNormal struct {
	EventType string `json:"event_type"`
	// Ratio is what is expected from now on, as a part of what was expected before.
	Ratio      float64   `json:"ratio"`
	AcceptedAt time.Time `json:"accepted_at"`
}

// AcceptNormal accepts what is left of an event type, while a drop is told, as its new normal.
func (c *Client) AcceptNormal(ctx context.Context, eventType, reason string) (*NewNormal, error) {
	body, err := json.Marshal(struct {
		EventType string `json:"event_type"`
		Reason    string `json:"reason,omitempty"`
	}{eventType, reason})
	if err != nil {
		return nil, fmt.Errorf("encode what is accepted: %w", err)
	}
	answer, err := c.do(ctx, request{
		method: http.MethodPost, path: AcceptPath, body: body, header: http.Header{"Content-Type": {"application/json"}},
	})
	if err != nil {
		return nil, err
	}
	return parse[NewNormal](AcceptPath, answer)
}

// Quiet is a planned quiet time.
type Quiet struct {
	// ID is nil where it stands in the calendar of the server, in the line Line.
	ID    *string    `json:"id,omitempty"`
	Line  int        `json:"line,omitzero"`
	From  *time.Time `json:"from,omitempty"`
	Until time.Time  `json:"until"`
	// Active says that it lasts now, Weekly that it comes again each week.
	Active bool `json:"active,omitzero"`
	Weekly bool `json:"weekly,omitzero"`
	// Types are the event types; none means all.
	Types  []string `json:"event_types,omitzero"`
	Reason string   `json:"reason,omitzero"`
}

// Health reads the score.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	return read[Health](ctx, c, HealthPath, Query{})
}

// QuietTimes reads the quiet times that last or are to come.
func (c *Client) QuietTimes(ctx context.Context) ([]Quiet, error) {
	list, err := read[struct {
		Quiet []Quiet `json:"quiet"`
	}](ctx, c, QuietPath, Query{})
	if err != nil {
		return nil, err
	}
	return list.Quiet, nil
}

// PlanQuiet plans a quiet time, which begins now where From is nil, and returns it as the server has it.
func (c *Client) PlanQuiet(ctx context.Context, q Quiet) (*Quiet, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	answer, err := c.do(ctx, request{
		method: http.MethodPost, path: QuietPath, body: body, header: http.Header{"Content-Type": {"application/json"}},
	})
	if err != nil {
		return nil, err
	}
	return parse[Quiet](QuietPath, answer)
}

// EndQuiet ends a quiet time, also one that is to come.
func (c *Client) EndQuiet(ctx context.Context, id string) error {
	_, err := c.do(ctx, request{method: http.MethodDelete, path: QuietPath + "/" + id})
	return err
}
