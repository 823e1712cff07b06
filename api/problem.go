package api

import (
	"fmt"
	"net/http"
	"strconv"
	"unicode/utf8"

	"usaged/aggregator/event"
)

// class is one way in which a request is refused.
type class uint8

const (
	malformed class = iota
	brokenCompression
	incompleteBody
	unauthorized
	forbidden
	foreignUser
	notFound
	unknownMeter
	unknownQuiet
	nothingToAccept
	healthOff
	prometheusOff
	methodNotAllowed
	foreignCursor
	tooManyQuiet
	cursorGone
	bodyTimeout
	tooLarge
	tooManyEvents
	unsupportedMediaType
	unsupportedEncoding
	invalid
	quotaExceeded
	invalidQuery
	internal
	outcomeUnknown
	reloadFailed
	unavailable
	overloaded
	storeUnavailable
	healthUnavailable
	notReady
	keysPending
	numClasses
)

// classes is the one table from what went wrong to the status, the stable code that clients and the metric label
// reason see, and whether a client does well to try again.
var classes = [numClasses]struct {
	code       string
	status     int
	ingest     bool   // POST events may answer so
	retryAfter string // seconds
}{
	malformed:            {"malformed", http.StatusBadRequest, true, ""},
	brokenCompression:    {"broken_compression", http.StatusBadRequest, true, ""},
	incompleteBody:       {"incomplete_body", http.StatusBadRequest, true, ""},
	unauthorized:         {"unauthorized", http.StatusUnauthorized, true, ""},
	forbidden:            {"forbidden", http.StatusForbidden, true, ""},
	foreignUser:          {"foreign_user", http.StatusForbidden, true, ""},
	notFound:             {"not_found", http.StatusNotFound, false, ""},
	unknownMeter:         {"unknown_meter", http.StatusNotFound, false, ""},
	nothingToAccept:      {"nothing_to_accept", http.StatusConflict, false, ""},
	unknownQuiet:         {"unknown_quiet", http.StatusNotFound, false, ""},
	healthOff:            {"health_off", http.StatusNotFound, false, ""},
	prometheusOff:        {"prometheus_off", http.StatusNotFound, false, ""},
	methodNotAllowed:     {"method_not_allowed", http.StatusMethodNotAllowed, false, ""},
	foreignCursor:        {"foreign_cursor", http.StatusConflict, false, ""},
	tooManyQuiet:         {"too_many_quiet", http.StatusConflict, false, ""},
	cursorGone:           {"cursor_gone", http.StatusGone, false, ""},
	bodyTimeout:          {"body_timeout", http.StatusRequestTimeout, true, ""},
	tooLarge:             {"too_large", http.StatusRequestEntityTooLarge, true, ""},
	tooManyEvents:        {"too_many_events", http.StatusRequestEntityTooLarge, true, ""},
	unsupportedMediaType: {"unsupported_media_type", http.StatusUnsupportedMediaType, true, ""},
	unsupportedEncoding:  {"unsupported_encoding", http.StatusUnsupportedMediaType, true, ""},
	invalid:              {"invalid", http.StatusUnprocessableEntity, true, ""},
	quotaExceeded:        {"quota_exceeded", http.StatusTooManyRequests, true, "1"},
	invalidQuery:         {"invalid_query", http.StatusUnprocessableEntity, false, ""},
	internal:             {"internal", http.StatusInternalServerError, true, ""},
	outcomeUnknown:       {"outcome_unknown", http.StatusInternalServerError, true, "1"},
	reloadFailed:         {"reload_failed", http.StatusInternalServerError, false, ""},
	unavailable:          {"unavailable", http.StatusServiceUnavailable, true, "1"},
	overloaded:           {"overloaded", http.StatusServiceUnavailable, true, "1"},
	storeUnavailable:     {"store_unavailable", http.StatusServiceUnavailable, false, "5"},
	healthUnavailable:    {"health_unavailable", http.StatusServiceUnavailable, false, "5"},
	notReady:             {"not_ready", http.StatusServiceUnavailable, false, "1"},
	keysPending:          {"keys_pending", http.StatusServiceUnavailable, true, "1"},
}

// faultClasses says how a request is refused whose events are at fault.
var faultClasses = map[event.FaultKind]class{
	event.Malformed: malformed,
	event.Invalid:   invalid,
	event.Forbidden: foreignUser,
	event.TooMany:   tooManyEvents,
}

// problem is a refusal. It is the error that handlers return.
type problem struct {
	class  class
	detail string        // a sentence for the client
	faults []event.Fault // of the events or the query
	total  int           // of faults, listed or not
	cause  error         // for the log; clients never see it
	token  string        // the name of the sender's token, for the log
	// retrySeconds stands for the class's retryAfter where it is not 0.
	retrySeconds int
}

func refuse(c class, detail string) *problem { return &problem{class: c, detail: detail} }

func refusef(c class, format string, args ...any) *problem {
	return refuse(c, fmt.Sprintf(format, args...))
}

func (p *problem) Error() string {
	if p.cause != nil {
		return p.detail + ": " + p.cause.Error()
	}
	return p.detail
}

func (p *problem) Unwrap() error { return p.cause }

// refuseFaults is the refusal of a body with faults.
func refuseFaults(f *event.Faults) *problem {
	detail := "the body has a fault; nothing of it was accepted"
	if f.Total > 1 {
		detail = fmt.Sprintf("the body has %d faults; nothing of it was accepted", f.Total)
	}
	if f.Total > len(f.List) {
		detail += fmt.Sprintf("; the first %d are listed", len(f.List))
	}
	return &problem{class: faultClasses[f.Kind], detail: detail, faults: f.List, total: f.Total}
}

// write answers the request with the problem.
func (p *problem) write(w http.ResponseWriter) {
	info := classes[p.class]
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Del("Etag")
	switch {
	case p.retrySeconds > 0:
		h.Set("Retry-After", strconv.Itoa(p.retrySeconds))
	case info.retryAfter != "":
		h.Set("Retry-After", info.retryAfter)
	}
	w.WriteHeader(info.status)
	// A client that has gone away needs no answer, and there is nobody else to tell.
	_, _ = w.Write(p.appendJSON(nil))
}

func (p *problem) appendJSON(b []byte) []byte {
	info := classes[p.class]
	b = append(b, `{"type":"about:blank","title":`...)
	b = appendString(b, http.StatusText(info.status))
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(info.status), 10)
	b = append(b, `,"detail":`...)
	b = appendString(b, p.detail)
	b = append(b, `,"code":`...)
	b = appendString(b, info.code)
	if len(p.faults) > 0 {
		b = append(b, `,"errors":[`...)
		for i, f := range p.faults {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendFault(b, f)
		}
		b = append(b, `],"errors_total":`...)
		b = strconv.AppendInt(b, int64(p.total), 10)
	}
	return append(b, "}\n"...)
}

// maxPointerBytes is more than any pointer into a valid event has. A pointer ends in a key of the client, which may be
// as long as the body.
const maxPointerBytes = 512

func appendFault(b []byte, f event.Fault) []byte {
	b = append(b, `{"pointer":`...)
	b = appendString(b, cut(f.Pointer))
	b = append(b, `,"code":`...)
	b = appendString(b, f.Code)
	b = append(b, `,"detail":`...)
	b = appendString(b, f.Detail)
	return append(b, '}')
}

// cut shortens s to at most maxPointerBytes, at a rune boundary, and marks that it did.
func cut(s string) string {
	if len(s) <= maxPointerBytes {
		return s
	}
	const mark = "…"
	n := maxPointerBytes - len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}
