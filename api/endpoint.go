package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"usaged/api/auth"
)

// answerTimeout is how long a client may take to read a piece of an answer.
const answerTimeout = 30 * time.Second

// answerPiece is how much of an answer a client must read in answerTimeout at least.
const answerPiece = 128 << 10

// statusClientGone is counted where nobody was left to answer. It is never sent.
const statusClientGone = 499

// errCut is returned by a handler whose answer could not be written to its end.
var errCut = errors.New("the answer was cut off")

// endpoint is everything around the handler of one route: who may call it, what is counted, what a panic becomes.
type endpoint struct {
	route
	api      *API
	codes    *codeCounters
	duration prometheus.Observer
	ingest   bool
}

func (a *API) endpoint(rt route) *endpoint {
	e := &endpoint{route: rt, api: a, codes: a.metrics.codes(rt.name), ingest: rt.name == ingestName}
	if e.ingest {
		e.duration = a.metrics.ingestSeconds
	} else {
		e.duration = a.metrics.requestSeconds.WithLabelValues(rt.name)
	}
	return e
}

var recorders = sync.Pool{New: func() any { return new(recorder) }}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := recorders.Get().(*recorder)
	rec.ResponseWriter, rec.code = w, 0
	e.api.metrics.inflight.Add(1)
	defer func() {
		abort := e.recovered(rec, recover())
		e.api.metrics.inflight.Add(-1)
		e.duration.Observe(time.Since(start).Seconds())
		e.codes.inc(rec.status())
		rec.ResponseWriter = nil
		recorders.Put(rec)
		if abort {
			panic(http.ErrAbortHandler) // the connection is all that is left to tell the client with
		}
	}()
	if err := e.answer(rec, r); err != nil {
		e.refuse(rec, r, err)
	}
}

// answer calls the handler if the caller may call it.
func (e *endpoint) answer(w http.ResponseWriter, r *http.Request) error {
	var who *auth.Token
	if e.roles != 0 {
		var err error
		if who, err = e.api.authorize(w, r, e.roles); err != nil {
			return err
		}
	}
	if who != nil && e.compress && e.name != tailName {
		end, err := e.api.beginRead(r, who)
		if err != nil {
			return err
		}
		defer end()
	}
	return e.serve(w, r, who)
}

// refuse writes, counts and logs the error of a handler.
func (e *endpoint) refuse(rec *recorder, r *http.Request, err error) {
	if errors.Is(err, errCut) {
		e.api.metrics.cut.Inc()
		if rec.code == 0 {
			rec.code = statusClientGone
		}
		panic(http.ErrAbortHandler)
	}
	p, ok := errors.AsType[*problem](err)
	if !ok {
		p = &problem{class: internal, detail: "the request could not be answered; the log of usaged says why", cause: err}
	}
	if e.ingest {
		e.api.metrics.rejected[p.class].Inc()
		if p.class != bodyTimeout { // nobody is waited for twice
			drain(rec, r)
		}
	}
	if p.class.denied() {
		e.api.logDenial(p, e.name, r)
	}
	if p.cause != nil {
		level := slog.LevelWarn
		if p.class == internal {
			level = slog.LevelError
		}
		e.api.log.Log(context.Background(), level, "request failed", "handler", e.name, "code", classes[p.class].code, "err", p.cause)
	}
	p.write(rec)
}

// maxDrainBytes bounds what is read of a body whose request is refused.
const maxDrainBytes = 2 * maxBodyBytes

// drain reads the rest of a body before its request is refused. A client that is still sending when the server closes
// the connection gets a reset instead of the answer, and would send the same again. One that waits for 100 Continue has
// not begun. It may be no slower than where a body is accepted.
func drain(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength > maxDrainBytes || r.Header.Get("Expect") != "" {
		return
	}
	_, _ = io.CopyN(io.Discard, newPaced(w, r), maxDrainBytes) // an error ends the connection, which is all it could do
}

// recovered turns a panic into an answer, or asks for the connection to be cut where the answer has begun.
func (e *endpoint) recovered(rec *recorder, v any) (abort bool) {
	if v == nil {
		return false
	}
	if v == any(http.ErrAbortHandler) {
		return true
	}
	e.api.metrics.panics.Inc()
	if e.ingest {
		e.api.metrics.rejected[internal].Inc()
	}
	// A panic of our own could carry what a client sent, one of the runtime cannot.
	what := fmt.Sprintf("%T", v)
	if err, ok := v.(runtime.Error); ok {
		what = err.Error()
	}
	e.api.log.Error("handler panicked", "handler", e.name, "panic", what, "stack", string(debug.Stack()))
	if rec.code != 0 {
		return true
	}
	refuse(internal, "the request could not be answered; the log of usaged says why").write(rec)
	return false
}

// recorder notes the status of an answer, and gives the client a deadline to read it.
type recorder struct {
	http.ResponseWriter
	code int // 0 before the header was written
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= http.StatusOK {
		r.begin(code)
	}
	r.ResponseWriter.WriteHeader(code)
}

// Write writes in pieces, each of which has a deadline of its own: an answer that is long ends where its client stops reading, and not
// in the middle because it takes time.
func (r *recorder) Write(b []byte) (n int, err error) {
	if r.code == 0 {
		r.begin(http.StatusOK)
	}
	for len(b) > answerPiece && err == nil {
		var written int
		written, err = r.ResponseWriter.Write(b[:answerPiece])
		n, b = n+written, b[written:]
		setWriteDeadline(r.ResponseWriter, time.Now().Add(answerTimeout))
	}
	if err != nil {
		return n, err
	}
	written, err := r.ResponseWriter.Write(b)
	return n + written, err
}

func (r *recorder) begin(code int) {
	r.code = code
	setWriteDeadline(r.ResponseWriter, time.Now().Add(answerTimeout))
}

// setWriteDeadline takes the place of the WriteTimeout that the server has not. A writer without deadlines is not a
// connection and needs none.
func setWriteDeadline(w http.ResponseWriter, t time.Time) {
	_ = http.NewResponseController(w).SetWriteDeadline(t)
}

func (r *recorder) status() int {
	if r.code == 0 {
		return http.StatusOK // what net/http sends for a handler that wrote nothing
	}
	return r.code
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
