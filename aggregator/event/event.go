// Package event defines the usage event: its fields, their limits, the strict JSON form in which clients send it
// and the binary form in which the journal keeps it. It imports nothing of ours and does no I/O.
//
// Three types carry an event through the daemon:
//
//   - [Decoder] turns a request body into a [Batch] of encoded events, or into [Faults] that name everything wrong.
//   - [View] reads an encoded event in place, without copying; folding uses it.
//   - [Event] is the plain struct, for everything that is not on a hot path.
package event

import (
	"time"
)

// Limits on one event. A longer value is a fault, never cut.
const (
	MaxIDBytes            = 128
	MaxUserIDBytes        = 256
	MaxTypeBytes          = 128
	MaxSourceBytes        = 128
	MaxMetadataKeys       = 64
	MaxMetadataKeyBytes   = 128
	MaxMetadataValueBytes = 8 << 10
	MaxMetadataBytes      = 32 << 10 // keys and values of one event together

	// MaxBatchEvents is the largest number of events in one request.
	MaxBatchEvents = 10_000
	// MaxFuture is how far created_at may lie ahead of the server's clock.
	MaxFuture = 10 * time.Minute
	// MaxFaults is how many faults of one request are listed.
	MaxFaults = 100
)

// Other is the name under which everything is counted that a limit on types, references or labels turned away.
// No event type begins with "__", so no client can send it.
const Other = "__other__"

// Event is one accepted event.
type Event struct {
	// ID names the event among those of its user and type. The server makes a UUIDv7 where the client sent none.
	ID string
	// ClientID says that the client chose ID. Only such ids are checked for duplicates.
	ClientID bool

	UserID   string
	Type     string
	Metadata map[string]string
	Source   string

	// CreatedAt is when the event happened; its UTC day is the day it is counted under.
	CreatedAt time.Time
	// AcceptedAt is the server's time of acceptance, in whole milliseconds.
	AcceptedAt time.Time
	// Token is the name of the token that posted the event.
	Token string
}

// KnownTypes are the event types that have a meaning of their own. Any other type is counted just as well.
var KnownTypes = []string{"dashboard_publish", "spreadsheet_formula", "sql_execution", "sql_generation"}
