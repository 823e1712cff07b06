package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"usaged/aggregator/event"
)

// Codes of faults in a query.
const (
	codeUnknownParameter  = "unknown_parameter"
	codeRepeatedParameter = "repeated_parameter"
	codeBadValue          = "bad_value"
	codeNoReference       = "no_reference"
)

// queryParams reads the query of a request strictly: every parameter once where it isn't a list, none that is not asked for. Faults are
// collected; their pointers are /query/NAME.
type queryParams struct {
	values url.Values
	asked  []string
	faults []event.Fault
}

func parseQuery(r *http.Request) *queryParams {
	q := &queryParams{}
	var err error
	if q.values, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		q.faults = append(q.faults, event.Fault{
			Pointer: "/query", Code: codeBadValue, Detail: "the query is not valid: write %, ; and & in values as %25, %3B and %26",
		})
	}
	return q
}

func (q *queryParams) fault(name, code, format string, args ...any) {
	q.faults = append(q.faults, event.Fault{Pointer: queryPointer(name), Code: code, Detail: fmt.Sprintf(format, args...)})
}

// queryPointer writes a parameter as a JSON pointer (RFC 6901).
func queryPointer(name string) string {
	return "/query/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// get returns the value of a parameter, and whether it was given.
func (q *queryParams) get(name string) (string, bool) {
	q.asked = append(q.asked, name)
	values := q.values[name]
	if len(values) > 1 {
		q.fault(name, codeRepeatedParameter, "%s is given %d times", name, len(values))
	}
	if len(values) != 1 {
		return "", false
	}
	return values[0], true
}

// list returns the values of a parameter that may be given several times, at most limit.
func (q *queryParams) list(name string, limit int) []string {
	q.asked = append(q.asked, name)
	values := q.values[name]
	if len(values) > limit {
		q.fault(name, codeRepeatedParameter, "%s is given %d times, at most %d are possible", name, len(values), limit)
		return nil
	}
	return values
}

// number returns a parameter from 1 to limit.
func (q *queryParams) number(name string, limit, absent int) int {
	text, ok := q.get(name)
	if !ok {
		return absent
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n < 1 || int(n) > limit {
		q.fault(name, codeBadValue, "%s must be a whole number from 1 to %d", name, limit)
		return absent
	}
	return int(n)
}

// text returns a parameter of 1 to limit bytes of UTF-8, or "".
func (q *queryParams) text(name string, limit int) string {
	text, ok := q.get(name)
	if ok && (text == "" || len(text) > limit || !utf8.ValidString(text)) {
		q.fault(name, codeBadValue, "%s must be 1 to %d bytes of UTF-8", name, limit)
		return ""
	}
	return text
}

// choice returns a parameter that is one of the choices, or "".
func (q *queryParams) choice(name string, choices ...string) string {
	text, ok := q.get(name)
	if ok && !slices.Contains(choices, text) {
		q.fault(name, codeBadValue, "%s must be one of %s", name, strings.Join(choices, ", "))
		return ""
	}
	return text
}

// err returns what was wrong with the query, parameters included that nobody asked for.
func (q *queryParams) err() error {
	known := "this path takes no parameters"
	if len(q.asked) > 0 {
		known = "the parameters are " + strings.Join(q.asked, ", ")
	}
	var unknown []string
	for name := range q.values {
		if !slices.Contains(q.asked, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		q.fault(name, codeUnknownParameter, "%s", known)
	}
	if len(q.faults) == 0 {
		return nil
	}
	p := refuse(invalidQuery, "the query has faults")
	p.faults, p.total = q.faults[:min(len(q.faults), event.MaxFaults)], len(q.faults)
	return p
}
