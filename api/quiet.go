package api

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/gorilla/mux"

	"usaged/aggregator/event"
	"usaged/api/auth"
	"usaged/rules/quiet"
)

// QuietTimes are the planned quiet times.
type QuietTimes interface {
	List() []quiet.Entry
	// Add plans one. The error is quiet.Faults or quiet.ErrFull (errors.Is), or an internal one.
	Add(quiet.Entry) (quiet.Entry, error)
	// End ends one. The error is quiet.ErrUnknown (errors.Is), or an internal one.
	End(id string) error
}

// maxQuietBytes is more than any quiet time takes, with its types and its reason.
const maxQuietBytes = 64 << 10

// getQuiet lists the quiet times that last or are to come.
func (a *API) getQuiet(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	list, now := a.cfg.Quiet.List(), a.cfg.Now()
	w.Header().Set("Cache-Control", "no-store")
	return streamJSON(w, func(s *stream) {
		s.raw(`{"quiet":[`)
		for i := range list {
			if i > 0 {
				s.raw(",")
			}
			s.quiet(&list[i], now)
		}
		s.raw("]}")
	})
}

// postQuiet plans a quiet time.
func (a *API) postQuiet(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuietBytes))
	if _, tooMany := errors.AsType[*http.MaxBytesError](err); tooMany {
		return refusef(tooLarge, "the body has more than %d bytes, the limit", maxQuietBytes)
	} else if err != nil {
		return refuseRead(err)
	}
	var ask struct {
		From   time.Time `json:"from"`
		Until  time.Time `json:"until"`
		Types  []string  `json:"event_types"`
		Reason string    `json:"reason"`
	}
	if err := json.Unmarshal(body, &ask, json.RejectUnknownMembers(true)); err != nil {
		return refuse(malformed, `the body must be as {"until": "2026-12-27T06:00:00Z", "event_types": ["sql_generation"], "reason": "holidays"}: `+
			cut(jsonFault(err)))
	}
	made, err := a.cfg.Quiet.Add(quiet.Entry{From: ask.From, Until: ask.Until, Types: ask.Types, Reason: ask.Reason})
	if faults, ok := errors.AsType[quiet.Faults](err); ok {
		return refuseQuiet(faults)
	}
	if errors.Is(err, quiet.ErrFull) {
		return refuse(tooManyQuiet, err.Error())
	}
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(http.StatusCreated)
	return streamJSON(w, func(s *stream) { s.quiet(&made, a.cfg.Now()) })
}

// jsonFault says what is wrong with JSON, and where. The library's own words differ from one process to the next.
func jsonFault(err error) string {
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		return fmt.Sprintf("%s: %v", cmp.Or(string(e.JSONPointer), "/"), cmp.Or(e.Err, errOtherKind))
	}
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Sprintf("byte %d: %v", e.ByteOffset, e.Err)
	}
	return err.Error()
}

var errOtherKind = errors.New("a value of another kind is wanted")

// refuseQuiet is the refusal of a quiet time with faults.
func refuseQuiet(faults quiet.Faults) error {
	p := refuse(invalid, "the quiet time has faults; it was not planned")
	for _, f := range faults {
		p.faults = append(p.faults, event.Fault{Pointer: "/" + f.Field, Code: codeBadValue, Detail: f.Reason})
	}
	p.faults, p.total = p.faults[:min(len(p.faults), event.MaxFaults)], len(faults)
	return p
}

// deleteQuiet ends a quiet time.
func (a *API) deleteQuiet(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	err := a.cfg.Quiet.End(mux.Vars(r)["id"])
	if errors.Is(err, quiet.ErrUnknown) {
		return refuse(unknownQuiet, "no present or future quiet time has this id: `usagectl quiet list`, or GET /api/v1/usage/quiet, shows them; those without an id come from the calendar file and end there")
	}
	if err != nil {
		return err
	}
	return writeStatus(w, "ended")
}

// quiet encodes a quiet time.
func (s *stream) quiet(e *quiet.Entry, now time.Time) {
	s.raw(`{"id":`)
	s.optional(e.ID)
	s.raw(`,"from":`)
	s.time(e.From, time.RFC3339)
	s.raw(`,"until":`)
	s.time(e.Until, time.RFC3339)
	s.raw(`,"active":`)
	s.boolean(!now.Before(e.From))
	s.raw(`,"weekly":`)
	s.boolean(e.Weekly)
	s.raw(`,"event_types":`)
	s.texts(e.Types)
	s.raw(`,"reason":`)
	s.text(e.Reason)
	if e.Line > 0 {
		s.raw(`,"line":`)
		s.number(uint64(e.Line))
	}
	s.raw("}")
}
