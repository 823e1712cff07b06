package event

import "fmt"

// FaultKind is the class of what is wrong with a request body, worst last.
type FaultKind int

const (
	// Invalid is JSON that is not a valid event.
	Invalid FaultKind = iota
	// Forbidden is an event of a sender who may not send it.
	Forbidden
	// TooMany is a batch of more than MaxBatchEvents.
	TooMany
	// Malformed is a body that is not JSON as we take it.
	Malformed
)

// Codes of faults. They are part of the HTTP contract.
const (
	CodeMalformed    = "malformed_json"
	CodeDuplicateKey = "duplicate_key"
	CodeUnknownField = "unknown_field"
	CodeRequired     = "required"
	CodeWrongType    = "wrong_type"
	CodeEmpty        = "empty"
	CodeTooLong      = "too_long"
	CodeTooMany      = "too_many"
	CodeBadType      = "bad_event_type"
	CodeBadTime      = "bad_time"
	CodeTooFarAhead  = "too_far_ahead"
	CodeExpired      = "expired"
	CodeNotAllowed   = "not_allowed"
)

// Fault is one thing that is wrong with a request body.
type Fault struct {
	// Pointer is the JSON pointer (RFC 6901) of the value from the body's root: /2/metadata/rows in a batch,
	// /metadata/rows in a single event, empty for the body itself. The lines of NDJSON count as the elements of an array.
	Pointer string
	// Code is stable.
	Code string
	// Detail is a sentence for people.
	Detail string
}

// Faults is everything that is wrong with a request body. It is an error.
type Faults struct {
	// Kind is the worst class of fault seen.
	Kind FaultKind
	// List has the first MaxFaults faults, Total is the number of all.
	List  []Fault
	Total int
}

func (f *Faults) Error() string {
	if len(f.List) == 0 {
		return "no faults"
	}
	first := f.List[0]
	where := first.Pointer
	if where == "" {
		where = "body"
	}
	if f.Total == 1 {
		return fmt.Sprintf("%s: %s", where, first.Detail)
	}
	return fmt.Sprintf("%s: %s (and %d more faults)", where, first.Detail, f.Total-1)
}

func (f *Faults) add(kind FaultKind, pointer, code, detail string) {
	f.Kind = max(f.Kind, kind)
	f.Total++
	if len(f.List) < MaxFaults {
		f.List = append(f.List, Fault{Pointer: pointer, Code: code, Detail: detail})
	}
}
