package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"usaged/aggregator/event"
	"usaged/api/auth"
	"usaged/rules/accept"
	"usaged/rules/health"
)

// AcceptedNormals keeps what operators accept as the new normal of event types.
type AcceptedNormals interface {
	Accept(accept.Normal) (accept.Normal, error)
}

// maxAcceptBytes is more than a type and a reason take.
const maxAcceptBytes = 4 << 10

// postHealthAccept accepts what is left of an event type while a drop is told.
func (a *API) postHealthAccept(w http.ResponseWriter, r *http.Request, who *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	if a.cfg.Health == nil {
		return refuse(healthOff, "nothing evaluates the rules of the score, so that no drop is known which could be accepted")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAcceptBytes))
	if _, tooMany := errors.AsType[*http.MaxBytesError](err); tooMany {
		return refusef(tooLarge, "the body has more than %d bytes, the limit", maxAcceptBytes)
	} else if err != nil {
		return refuseRead(err)
	}
	var ask struct {
		EventType string `json:"event_type"`
		Reason    string `json:"reason"`
	}
	if err := json.Unmarshal(body, &ask, json.RejectUnknownMembers(true)); err != nil {
		return refuse(malformed, `the body must be as {"event_type": "sql_generation", "reason": "half of the users have moved"}: `+cut(jsonFault(err)))
	}
	if len(ask.Reason) > accept.MaxReasonBytes || !utf8.ValidString(ask.Reason) {
		p := refuse(invalid, "the reason is not fit to be kept; nothing was accepted")
		p.faults = append(p.faults, event.Fault{Pointer: "/reason", Code: codeBadValue, Detail: fmt.Sprintf("it must be UTF-8 of %d bytes at most", accept.MaxReasonBytes)})
		p.total = len(p.faults)
		return p
	}
	ratio, err := a.cfg.Health.Left(r.Context(), ask.EventType)
	if errors.Is(err, health.ErrNoDrop) {
		return refusef(nothingToAccept, "no drop of the event type %q is told now: GET /api/v1/usage/health lists the types and what is told of them", cut(ask.EventType))
	}
	if err != nil {
		p := refuse(healthUnavailable, a.cfg.Health.Source()+" does not say what is left of the events; the log of usaged says why: try again")
		p.cause = err
		return p
	}
	made, err := a.cfg.Accepted.Accept(accept.Normal{EventType: ask.EventType, Ratio: ratio, By: who.Name, Reason: ask.Reason})
	if err != nil {
		return err
	}
	a.log.Info("accepted a new normal of an event type", "event_type", made.EventType, "ratio", made.Ratio, "token", who.Name)
	w.Header().Set("Cache-Control", "no-store")
	w.Header()["Content-Type"] = jsonType
	return streamJSON(w, func(s *stream) {
		s.raw(`{"event_type":`)
		s.text(made.EventType)
		s.raw(`,"ratio":`)
		s.float(&made.Ratio)
		s.raw(`,"accepted_at":`)
		s.time(made.At, time.RFC3339)
		s.raw("}")
	})
}
