package client

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Problem is a refusal by the server: RFC 9457's problem details. Use errors.AsType[*Problem] to find it in a chain.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Code is stable and meant for programs.
	Code string `json:"code"`
	// Errors are the faults of a refused body, at most the first hundred.
	Errors []Fault `json:"errors"`
	// RetryAfter is the pause that the server asks for; 0 where it named none.
	RetryAfter time.Duration `json:"-"`
}

// Fault is one thing wrong with a request body.
type Fault struct {
	// Pointer is a JSON pointer from the body's root. In a batch it begins with the event's index: /2/metadata/rows.
	Pointer string `json:"pointer"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

// Element splits the pointer of a fault in a batch into the event's index and the rest, which points into the event.
// ok is false where the fault concerns the body as a whole.
func (f Fault) Element() (index int, rest string, ok bool) {
	pointer, ok := strings.CutPrefix(strings.TrimPrefix(f.Pointer, "#"), "/")
	if !ok {
		return 0, "", false
	}
	first, rest, more := strings.Cut(pointer, "/")
	index, err := strconv.Atoi(first)
	if err != nil || index < 0 {
		return 0, "", false
	}
	if more {
		rest = "/" + rest
	}
	return index, rest, true
}

// Temporary says whether the same request may succeed later. With the code outcome_unknown it may have succeeded already, as
// after a broken connection.
func (p *Problem) Temporary() bool {
	if p.Code == "outcome_unknown" {
		return true
	}
	switch p.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s", p.Status, p.Title)
	if p.Detail != "" {
		fmt.Fprintf(&b, ": %s", p.Detail)
	}
	if len(p.Errors) > 0 {
		first := p.Errors[0]
		fmt.Fprintf(&b, ": %s: %s", orDefault(first.Pointer, "body"), first.Detail)
	}
	if len(p.Errors) > 1 {
		fmt.Fprintf(&b, " (and %d more)", len(p.Errors)-1)
	}
	return b.String()
}

// newProblem makes a Problem of any refusal, also of one that a proxy answered in its own way.
func newProblem(resp *http.Response, body []byte) *Problem {
	p := &Problem{}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if mediaType != "application/problem+json" || json.Unmarshal(body, p) != nil {
		*p = Problem{Detail: excerpt(mediaType, body)}
	}
	p.Status = resp.StatusCode
	p.Title = orDefault(p.Title, http.StatusText(resp.StatusCode))
	if location := resp.Header.Get("Location"); p.Detail == "" && resp.StatusCode/100 == 3 && location != "" {
		p.Detail = "it points elsewhere, to " + location + "; redirects are not followed"
	}
	p.RetryAfter = retryAfter(resp.Header)
	return p
}

// excerpt is the beginning of a plain text answer.
func excerpt(mediaType string, body []byte) string {
	const maxExcerptBytes = 200
	if mediaType != "text/plain" && mediaType != "application/json" {
		return ""
	}
	text := strings.ToValidUTF8(string(body[:min(len(body), maxExcerptBytes)]), "")
	return strings.Join(strings.Fields(text), " ")
}

// retryAfter reads the header in both of its forms, relative to the server's own clock where it tells it.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, at.Sub(now))
}
