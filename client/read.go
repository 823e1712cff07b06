package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Paths of the reads, for [Client.Get].
const (
	SummaryPath = "/api/v1/usage/summary"
	DailyPath   = "/api/v1/usage/daily"
	LedgerPath  = "/api/v1/usage/ledger"
	// MetersPath lists the meters that exist.
	MetersPath = "/api/v1/usage/meters"

	reloadPath = "/-/reload"
)

// MeterPath is the path of a meter such as users, queries, dashboards, llm-tokens or one that the operator defined.
func MeterPath(name string) string { return "/api/v1/usage/" + name }

// Total is a key with its number.
type Total struct {
	Key string
	N   uint64
}

// Totals is a JSON object of numbers that keeps the server's order.
type Totals []Total

// UnmarshalJSONFrom reads an object.
func (t *Totals) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	open, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if open.Kind() != '{' {
		return fmt.Errorf("an object of numbers is due, not %v", open.Kind())
	}
	*t = Totals{}
	for dec.PeekKind() != '}' {
		var total Total
		if err := json.UnmarshalDecode(dec, &total.Key); err != nil {
			return err
		}
		if err := json.UnmarshalDecode(dec, &total.N); err != nil {
			return err
		}
		*t = append(*t, total)
	}
	_, err = dec.ReadToken()
	return err
}

// Query selects from a window of days. Zero values select everything of the server's default window.
type Query struct {
	// Days is today (UTC) and the days before it.
	Days int
	// Top keeps the N busiest.
	Top int
	// EventType and UserID filter a summary.
	EventType, UserID string
	// By is the dimension of a meter: user or reference.
	By string
}

// Values is the query as URL parameters.
func (q Query) Values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" && value != "0" {
			v.Set(name, value)
		}
	}
	set("days", strconv.Itoa(q.Days))
	set("top", strconv.Itoa(q.Top))
	set("by", q.By)
	if q.EventType != "" {
		v.Set("event_type", q.EventType)
	}
	if q.UserID != "" {
		v.Set("user_id", q.UserID)
	}
	return v
}

// Summary is how often each user sent each event type in a window of days.
type Summary struct {
	Types       map[string]Totals `json:"summary"`
	GeneratedAt time.Time         `json:"generated_at"`
	Days        int               `json:"days"`
	From        string            `json:"from"`
	To          string            `json:"to"`
	// Pending is how many events the server has accepted and not counted yet: at most so many are missing. 0 also where it does not know.
	Pending uint64 `json:"pending"`
}

// Meter describes what a meter counts.
type Meter struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	// Events are the event types that it reads; none means all.
	Events []string `json:"events"`
	// Reference is the metadata key of its second dimension; empty where it has none.
	Reference string `json:"reference"`
	// Value and Sum are the metadata keys that it adds up; without them every event adds 1.
	Value string   `json:"value"`
	Sum   []string `json:"sum"`
	// By is the dimension that it answers with when it isn't asked for one: user or reference.
	By string `json:"by"`
	// Builtin says that every server has it.
	Builtin bool `json:"builtin"`
	// Metric is the Prometheus family that exports it; empty where there is none.
	Metric string `json:"metric,omitempty"`
	// Since is when it was put in force, zero where it has been since the beginning.
	Since time.Time `json:"since,omitzero"`
	// Complete says that nothing in the server's journal is missing in its totals.
	Complete bool `json:"complete"`
	// Rebuild is nil where nobody asked for its past.
	Rebuild *Rebuild `json:"rebuild,omitempty"`
}

// Rebuild says how far the counting of a meter's past is.
type Rebuild struct {
	// Phase is waiting, running or done.
	Phase string `json:"phase"`
	// Events is the number of events that are read for it, Done how many have been.
	Events uint64 `json:"events"`
	Done   uint64 `json:"done"`
}

// Daily is how many events of each type each day had.
type Daily struct {
	Days map[string]map[string]uint64 `json:"daily"`
	// Pending is how many events the server has accepted and not counted yet, see Summary.
	Pending uint64 `json:"pending"`
}

// Ledger is the accounts of the server's data directory since it was made.
type Ledger struct {
	All   Account            `json:"all"`
	Types map[string]Account `json:"types"`
	// Rejected counts events that were refused since the server started, by reason.
	Rejected map[string]uint64 `json:"rejected"`
	// Others are the other producers that the store knows.
	Others []Producer `json:"others"`
	// OthersStale says that the store did not answer, and that Others is what it said last.
	OthersStale bool `json:"others_stale"`
}

// Account says where accepted events have gone. It balances when Accepted is the sum of the others.
type Account struct {
	Accepted   uint64 `json:"accepted"`
	Counted    uint64 `json:"counted"`
	Duplicates uint64 `json:"duplicates"`
	Pending    uint64 `json:"pending"`
	Damaged    uint64 `json:"damaged"`
}

// Balanced says whether every accepted event is accounted for.
func (a Account) Balanced() bool {
	return a.Accepted == a.Counted+a.Duplicates+a.Pending+a.Damaged
}

// Producer is another replica's part.
type Producer struct {
	ID         string `json:"id"`
	Counted    uint64 `json:"counted"`
	Duplicates uint64 `json:"duplicates"`
}

// Summary reads events per type and user.
func (c *Client) Summary(ctx context.Context, q Query) (*Summary, error) {
	return read[Summary](ctx, c, SummaryPath, q)
}

// Meter reads the totals of a meter, largest first.
func (c *Client) Meter(ctx context.Context, name string, q Query) (Totals, error) {
	totals, err := read[Totals](ctx, c, MeterPath(name), q)
	if err != nil {
		return nil, err
	}
	return *totals, nil
}

// Meters lists the meters that the server counts.
func (c *Client) Meters(ctx context.Context) ([]Meter, error) {
	list, err := read[struct {
		Meters []Meter `json:"meters"`
	}](ctx, c, MetersPath, Query{})
	if err != nil {
		return nil, err
	}
	return list.Meters, nil
}

// RebuildMeter has the server count the events of its journal that were accepted before a meter was put in force. The work
// goes on after the answer: Meters says how far it is.
func (c *Client) RebuildMeter(ctx context.Context, name string) (*Meter, error) {
	answer, err := c.do(ctx, request{method: http.MethodPost, path: MetersPath + "/" + name + "/rebuild"})
	if err != nil {
		return nil, err
	}
	return parse[Meter](MetersPath, answer)
}

// Daily reads events per day and type.
func (c *Client) Daily(ctx context.Context, q Query) (*Daily, error) {
	return read[Daily](ctx, c, DailyPath, q)
}

// Ledger reads the accounts.
func (c *Client) Ledger(ctx context.Context) (*Ledger, error) {
	return read[Ledger](ctx, c, LedgerPath, Query{})
}

func read[T any](ctx context.Context, c *Client, path string, q Query) (*T, error) {
	answer, err := c.Get(ctx, path, q.Values(), "")
	if err != nil {
		return nil, err
	}
	return parse[T](path, answer)
}

// parse reads the answer of a path.
func parse[T any](path string, answer *Answer) (*T, error) {
	value := new(T)
	if err := json.Unmarshal(answer.Body, value); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", path, err)
	}
	return value, nil
}
