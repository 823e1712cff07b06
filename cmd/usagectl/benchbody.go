package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"time"
)

// singleTemplates is how many different single events a connection takes turns with.
const singleTemplates = 60

// shape says what the events of a load look like.
type shape struct {
	target *url.URL
	token  string
	batch  int
	users  int
	types  int
	days   int
	ids    bool
	run    string // tells the ids of this run from those of others
	today  time.Time
}

// loadRequest is a whole request, encoded once. What differs from one sending to the next has a fixed width and is
// overwritten in place.
type loadRequest struct {
	wire  []byte
	users []int // where each event's user number begins
	ids   []int // where each event's id counter begins
	dates []int // where each event's created_at begins
	next  uint64
	days  []string
}

const (
	idDigits   = 12
	dateDigits = len(time.DateOnly)
)

// requests encodes what one connection sends in turn.
func (s *shape) requests(connection int) []*loadRequest {
	n := 1
	if s.batch == 1 {
		n = singleTemplates
	}
	days := make([]string, s.days)
	for i := range days {
		days[i] = s.today.AddDate(0, 0, -i).Format(time.DateOnly)
	}
	list := make([]*loadRequest, n)
	for i := range list {
		list[i] = s.encode(connection, i, days)
	}
	return list
}

func (s *shape) encode(connection, template int, days []string) *loadRequest {
	r := &loadRequest{days: days}
	var body bytes.Buffer
	for i := range s.batch {
		s.appendEvent(&body, r, fmt.Sprintf("%s-%04x-%02x-", s.run, connection, template), i+template+connection)
		if s.batch > 1 {
			body.WriteByte('\n')
		}
	}
	contentType := "application/json"
	if s.batch > 1 {
		contentType = "application/x-ndjson"
	}
	head := fmt.Sprintf("POST %s/api/v1/usage/events HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n",
		s.target.EscapedPath(), s.target.Host, contentType, body.Len())
	if s.token != "" {
		head += "Authorization: Bearer " + s.token + "\r\n"
	}
	head += "\r\n"
	r.wire = append([]byte(head), body.Bytes()...)
	for _, offsets := range [][]int{r.users, r.ids, r.dates} {
		for i := range offsets {
			offsets[i] += len(head)
		}
	}
	return r
}

// appendEvent writes an event of about 200 bytes and notes where its changing parts are.
func (s *shape) appendEvent(body *bytes.Buffer, r *loadRequest, idPrefix string, slot int) {
	body.WriteString(`{"user_id":"user-`)
	r.users = append(r.users, body.Len())
	fmt.Fprintf(body, `%0*d"`, s.userDigits(), 0)
	if s.ids {
		body.WriteString(`,"id":"` + idPrefix)
		r.ids = append(r.ids, body.Len())
		fmt.Fprintf(body, `%0*d"`, idDigits, 0)
	}
	if s.days > 1 {
		body.WriteString(`,"created_at":"`)
		r.dates = append(r.dates, body.Len())
		body.WriteString(r.days[0] + `T00:00:00Z"`)
	}
	typ := slot % s.types
	body.WriteString(`,"event_type":"` + typeName(typ) + `","source":"bench","metadata":{` + metadata(typ, slot) + `}}`)
}

func (s *shape) userDigits() int { return len(strconv.Itoa(s.users - 1)) }

func typeName(typ int) string {
	known := []string{"sql_generation", "sql_execution", "dashboard_publish", "spreadsheet_formula", "chat_completion"}
	if typ < len(known) {
		return known[typ]
	}
	return fmt.Sprintf("bench_%04d", typ)
}

// metadata is what the built-in meters read of each type.
func metadata(typ, slot int) string {
	switch typ {
	case 0:
		return fmt.Sprintf(`"question":"how many orders did region %03d place last week","policy_filters":"tenant","outcome":"success"`, slot%500)
	case 1:
		return fmt.Sprintf(`"question":"how many orders did region %03d place last week","rows":"%03d","outcome":"success"`, slot%500, slot%1000)
	case 2:
		return fmt.Sprintf(`"dashboard_id":"dashboard-%03d","adapter":"postgres","workspace":"analytics","outcome":"success"`, slot%200)
	case 3:
		return fmt.Sprintf(`"prompt":"sum of column C where column A is blue","project_id":"project-%02d"`, slot%100)
	case 4:
		return fmt.Sprintf(`"model":"model-%d","prompt_tokens":"%04d","completion_tokens":"%03d","outcome":"success"`, slot%4, 1000+slot%1000, slot%1000)
	}
	return fmt.Sprintf(`"component":"component-%02d","detail":"an event of a type that no meter knows"`, slot%100)
}

// refresh gives the events other users, new ids and other days.
func (r *loadRequest) refresh(rng *rand.Rand, s *shape) {
	digits := s.userDigits()
	for _, at := range r.users {
		putDecimal(r.wire[at:at+digits], rng.Uint64N(uint64(s.users)))
	}
	for _, at := range r.ids {
		r.next++
		putDecimal(r.wire[at:at+idDigits], r.next)
	}
	for _, at := range r.dates {
		copy(r.wire[at:at+dateDigits], r.days[rng.IntN(len(r.days))])
	}
}

// putDecimal fills dst with n and leading zeros.
func putDecimal(dst []byte, n uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
}
