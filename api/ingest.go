package api

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"usaged/aggregator"
	"usaged/aggregator/event"
	"usaged/api/auth"
	"usaged/api/quota"
)

const acceptedTypes = "application/json, application/x-ndjson, application/ndjson, application/jsonl"

// postEvents accepts the events of a request: all of them, or none. An empty batch is accepted, with 0 events: a sender
// that flushes an empty buffer has done nothing that it could correct.
func (a *API) postEvents(w http.ResponseWriter, r *http.Request, who *auth.Token) error {
	format, err := bodyFormat(w, r)
	if err != nil {
		return err
	}
	c, err := bodyCoding(w, r)
	if err != nil {
		return err
	}
	account := a.account(who)
	body, err := a.bodies.read(w, r, c, shareOf(account))
	if err != nil {
		a.noteRefusal(who, err)
		return err
	}
	defer a.bodies.put(body)
	if err := a.spend(who, account, quota.Bytes, len(body.data)); err != nil {
		return err
	}
	a.metrics.bodyBytes.Add(len(body.data))
	n, single, err := a.accept(body.data, format, who, account)
	if err != nil {
		return err
	}
	a.metrics.events.Add(n)
	a.metrics.ingestEvents.Observe(float64(n))
	writeAccepted(w, n, single)
	return nil
}

// accept decodes a body and makes its events durable.
func (a *API) accept(body []byte, format event.Format, who *auth.Token, account *quota.Account) (n int, single bool, err error) {
	dec := a.decoders.Get().(*event.Decoder)
	now := a.cfg.Now()
	batch, err := dec.Decode(body, format, event.Origin{
		Token:      who.Name,
		User:       who.UserID,
		Bound:      who.Role == auth.RoleUser,
		AcceptedAt: now,
		Latest:     a.cfg.Latest(),
		Oldest:     event.DayOf(now) - event.Day(a.cfg.Reader.Retention()) + 1,
	})
	if err == nil {
		err = a.spendBatch(who, account, batch)
	}
	if err == nil && batch.N > 0 {
		err = a.store(batch)
	}
	if errors.Is(err, aggregator.ErrUnknown) {
		return 0, false, err // the journal may still read the batch, so the decoder that holds it is not used again
	}
	if err != nil {
		a.decoders.Put(dec)
		if faults, ok := errors.AsType[*event.Faults](err); ok {
			err = refuseFaults(faults)
		}
		return 0, false, err
	}
	n, single = batch.N, batch.Single
	a.decoders.Put(dec) // not deferred: after a panic the decoder is left to the garbage collector
	return n, single, nil
}

func (a *API) store(batch *event.Batch) error {
	err := a.cfg.Accepter.Accept(batch)
	if err == nil {
		return nil
	}
	if errors.Is(err, aggregator.ErrUnavailable) {
		a.metrics.rejectedEvents[unavailable].Add(batch.N)
		return refuse(unavailable, "events cannot be made durable at this moment: try again")
	}
	if errors.Is(err, aggregator.ErrUnknown) {
		a.metrics.rejectedEvents[outcomeUnknown].Add(batch.N)
		p := refuse(outcomeUnknown, "the disk has neither taken the events nor refused them in time, so that they may be durable or not: send them "+
			"again with the same ids, and each is counted once")
		p.cause = err
		return p
	}
	a.metrics.rejectedEvents[internal].Add(batch.N)
	return fmt.Errorf("accept %d events: %w", batch.N, err)
}

// Header values that are shared by all answers. Nothing changes a slice in a header.
var (
	jsonType          = []string{"application/json"}
	acceptedOne       = []byte("{\"status\":\"accepted\"}\n")
	acceptedOneLength = []string{strconv.Itoa(len(acceptedOne))}
)

func writeAccepted(w http.ResponseWriter, n int, single bool) {
	h := w.Header()
	h["Content-Type"] = jsonType
	answer := acceptedOne
	if single {
		h["Content-Length"] = acceptedOneLength
	} else {
		answer = strconv.AppendInt([]byte(`{"status":"accepted","accepted":`), int64(n), 10)
		answer = append(answer, "}\n"...)
	}
	w.WriteHeader(http.StatusAccepted)
	// The events are durable. A client that went away will send them again, and ids tell that they are the same.
	_, _ = w.Write(answer)
}

// bodyFormat reads the Content-Type of a request.
func bodyFormat(w http.ResponseWriter, r *http.Request) (event.Format, error) {
	values := r.Header["Content-Type"]
	if len(values) == 0 || values[0] == "" || values[0] == "application/json" {
		return event.JSON, nil
	}
	media, params, err := mime.ParseMediaType(values[0])
	charset, hasCharset := params["charset"]
	switch {
	case err != nil:
		media = ""
	case hasCharset && !strings.EqualFold(charset, "utf-8"):
		media = ""
	}
	switch media {
	case "application/json",
		"application/x-www-form-urlencoded": // what curl -d says of any body; a real form is not JSON and refused as that
		return event.JSON, nil
	case "application/x-ndjson", "application/ndjson", "application/jsonl":
		return event.NDJSON, nil
	}
	w.Header().Set("Accept-Post", acceptedTypes)
	return 0, refuse(unsupportedMediaType, "Content-Type must be one of "+acceptedTypes+", in UTF-8")
}
