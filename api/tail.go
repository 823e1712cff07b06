package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"usaged/aggregator/event"
	"usaged/aggregator/tail"
	"usaged/api/auth"
)

// Tailer opens tails of the journal.
type Tailer interface {
	// TailAfter begins behind a cursor. The error is tail.ErrForeignCursor or tail.ErrCursorGone (errors.Is) where
	// that is impossible.
	TailAfter(c tail.Cursor) (*tail.Reader, error)
	// TailSince begins with the events accepted at a time, with the oldest where it is zero.
	TailSince(since time.Time) (*tail.Reader, error)
}

const (
	// maxTails bounds the tails that are open at one time. Each holds some 500 kB of buffers and an open segment.
	maxTails = 64
	// maxTailLimit is the largest limit that can be asked for. An answer without one ends with what the journal held when it began: to
	// cut it short would look like the end.
	maxTailLimit = 1_000_000
	// tailChunkBytes is how much is encoded before it is written.
	tailChunkBytes = 128 << 10
	// tailInterval is the least time between two looks at the journal by a stream that has caught up, so that each costs a
	// busy daemon little. What comes after a pause goes out at once.
	tailInterval = 50 * time.Millisecond
	// keepAliveInterval is the longest silence of a stream, so that neither side takes the other for dead.
	keepAliveInterval = 15 * time.Second
)

// tailQuery is what a client asks for.
type tailQuery struct {
	after            *tail.Cursor
	since            time.Time
	eventType, user  string
	limit            int // 0: none
	follow, progress bool
}

// getEvents streams accepted events.
func (a *API) getEvents(w http.ResponseWriter, r *http.Request, who *auth.Token) error {
	q, err := a.parseTail(r)
	if err != nil {
		return err
	}
	end, err := a.beginTail(who)
	if err != nil {
		return err
	}
	defer end()
	select {
	case a.tails <- struct{}{}:
		defer func() { <-a.tails }()
	default:
		return refusef(overloaded, "%d streams of events are open, which is the limit: close one, or try again", maxTails)
	}
	reader, err := a.openTail(q)
	if err != nil {
		return refuseTail(err)
	}
	defer reader.Close() //nolint:errcheck // it was only read
	h := w.Header()
	h["Content-Type"] = ndjsonType
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold back what is flushed
	if r.Method == http.MethodHead {
		return nil
	}
	s := &tailStream{api: a, w: w, control: http.NewResponseController(w), request: r, query: q, tail: reader, checked: time.Now()}
	// The server's deadline is for requests; when it passes it would end this answer. Who has no connection has no deadline.
	_ = s.control.SetReadDeadline(time.Time{})
	return s.run(r.Context())
}

var ndjsonType = []string{"application/x-ndjson"}

// EndStreams ends the answers that stream events, now and from now on, behind a whole line. It is for the stop of the daemon,
// which would wait for them.
func (a *API) EndStreams() { a.endOnce.Do(func() { close(a.ending) }) }

func (a *API) openTail(q *tailQuery) (*tail.Reader, error) {
	if q.after != nil {
		return a.cfg.Tails.TailAfter(*q.after)
	}
	return a.cfg.Tails.TailSince(q.since)
}

func (a *API) parseTail(r *http.Request) (*tailQuery, error) {
	p := parseQuery(r)
	q := &tailQuery{since: p.since(a.cfg.Now())}
	if text, _ := p.get("after"); text != "" { // an empty one is that of a client that has none yet
		cursor, err := tail.ParseCursor(text)
		if err != nil {
			p.fault("after", codeBadValue, "after is %v", err)
		}
		q.after = &cursor
	}
	q.eventType = p.text("event_type", event.MaxTypeBytes)
	q.user = p.text("user_id", event.MaxUserIDBytes)
	q.follow = p.choice("follow", "true", "false") == "true"
	q.progress = p.choice("progress", "true", "false") == "true"
	q.limit = p.number("limit", maxTailLimit, 0)
	return q, p.err()
}

// since returns the time that the parameter of that name gives: RFC 3339, or as long ago as a duration says.
func (q *queryParams) since(now time.Time) time.Time {
	text, ok := q.get("since")
	if !ok {
		return time.Time{}
	}
	// The + of an offset that was not escaped comes as a blank.
	if t, err := time.Parse(time.RFC3339, strings.ReplaceAll(text, " ", "+")); err == nil {
		return t
	}
	days, ofDays := strings.CutSuffix(text, "d")
	if n, err := strconv.ParseUint(days, 10, 16); ofDays && err == nil {
		return now.AddDate(0, 0, -int(n))
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago)
	}
	q.fault("since", codeBadValue, "since must be a time (2026-11-23T10:00:00Z) or how long ago (90s, 15m, 24h, 7d)")
	return time.Time{}
}

// refuseTail is the answer where a tail cannot begin.
func refuseTail(err error) error {
	switch {
	case errors.Is(err, tail.ErrCursorGone):
		return refuse(cursorGone, "events behind this cursor have left the journal, by its retention: begin anew with since=, or without "+
			"after= with the oldest that are kept")
	case errors.Is(err, tail.ErrForeignCursor):
		return refuse(foreignCursor, "this cursor is not of this replica's journal, or not of its present state: ask the replica that gave it, "+
			"or begin anew with since= if the data directory was restored from a backup")
	}
	return fmt.Errorf("open tail: %w", err)
}

// tailStream writes one answer.
type tailStream struct {
	api     *API
	w       http.ResponseWriter
	control *http.ResponseController
	request *http.Request
	query   *tailQuery
	tail    *tail.Reader

	buf      []byte
	lines    uint64 // events in buf
	events   uint64 // events encoded
	begun    bool   // something was written
	written  time.Time
	checked  time.Time
	told     tail.Cursor // of the last line
	missing  uint64      // events that were logged to be missing
	end      bool        // all that there was when the answer began has been read
	accepted int64       // accepted_at in acceptedText
	text     []byte
	err      error
}

// run streams until the end that the query names, the client goes or the daemon stops.
func (s *tailStream) run(ctx context.Context) error {
	s.api.metrics.tailStreams.Add(1)
	defer s.api.metrics.tailStreams.Add(-1)
	s.buf = make([]byte, 0, tailChunkBytes+16<<10)
	through := s.tail.End()
	for !s.ended(ctx) {
		changed := s.tail.Changed()
		err := s.tail.Next(s.take)
		switch {
		case s.err != nil:
			return s.cut(ctx)
		case errors.Is(err, io.EOF) && !s.query.follow, err == nil && !s.query.follow && s.tail.Seq() >= through:
			s.end = true
			return s.finish(ctx)
		case errors.Is(err, io.EOF):
			s.wait(ctx, changed)
		case err != nil:
			return s.fail(ctx, err)
		}
		s.tick()
	}
	return s.finish(ctx)
}

// ended says that the stream is to end in order.
func (s *tailStream) ended(ctx context.Context) bool {
	select {
	case <-s.api.ending:
		return true
	case <-ctx.Done():
		return true
	default:
		return s.err != nil || s.full()
	}
}

func (s *tailStream) full() bool { return s.query.limit > 0 && s.events >= uint64(s.query.limit) }

// take encodes an event if it is one that is asked for. It returns false where no more are to come.
func (s *tailStream) take(e *tail.Event) bool {
	if s.query.eventType != "" && string(e.Type) != s.query.eventType || s.query.user != "" && string(e.UserID) != s.query.user {
		return true
	}
	s.told = s.tail.Cursor()
	s.buf = append(s.buf, `{"cursor":"`...)
	s.buf = s.told.AppendTo(s.buf)
	s.buf = append(s.buf, `","accepted_at":"`...)
	if s.accepted != e.AcceptedMillis || len(s.text) == 0 { // those of a batch have the same
		s.accepted, s.text = e.AcceptedMillis, event.AppendTime(s.text[:0], e.AcceptedMillis*int64(time.Millisecond))
	}
	s.buf = append(s.buf, s.text...)
	s.buf = append(s.buf, `","token":`...)
	s.buf = event.AppendQuoted(s.buf, e.Token)
	s.buf = append(s.buf, ',')
	s.buf = e.AppendJSON(s.buf, e.Producer, e.Seq)
	s.buf = append(s.buf, "}\n"...)
	s.lines++
	s.events++
	if len(s.buf) >= tailChunkBytes {
		s.write()
	}
	return s.err == nil && !s.full()
}

// write passes on what is encoded. A client that takes nothing for answerTimeout is cut off.
func (s *tailStream) write() {
	if len(s.buf) == 0 || s.err != nil {
		return
	}
	s.begun, s.written = true, time.Now()
	setWriteDeadline(s.w, s.written.Add(answerTimeout))
	_, s.err = s.w.Write(s.buf)
	if s.err == nil {
		s.api.metrics.tailEvents.AddInt64(int64(s.lines))
	}
	s.buf, s.lines = s.buf[:0], 0
}

// flush passes on what is encoded as far as the client.
func (s *tailStream) flush() {
	s.write()
	if s.err == nil {
		s.err = s.control.Flush()
	}
}

// wait passes on what there is, and waits until there is more. The first look finds whatever is there; a stream without
// any begins with a line for the client to see that it has begun.
func (s *tailStream) wait(ctx context.Context, changed <-chan struct{}) {
	if !s.begun && len(s.buf) == 0 {
		s.keepAlive()
	}
	if len(s.buf) > 0 {
		s.flush()
	}
	if pause := tailInterval - time.Since(s.written); pause > 0 {
		s.pause(ctx, pause, nil)
	}
	s.pause(ctx, keepAliveInterval-time.Since(s.checked), changed)
}

// pause waits for a time, or until the channel is closed or the stream has to end.
func (s *tailStream) pause(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-s.api.ending:
	case <-ctx.Done():
	}
}

// tick does what is due from time to time: it tells of damage, breaks a long silence, and ends the stream of a token that was
// revoked.
func (s *tailStream) tick() {
	if missing := s.tail.Missing(); missing > s.missing {
		s.api.metrics.tailMissing.AddInt64(int64(missing - s.missing))
		s.api.log.Warn("a stream of events had to leave out some that are damaged in the journal", "events", missing-s.missing)
		s.missing = missing
		if s.query.progress {
			s.appendProgress()
		}
	}
	now := time.Now()
	if now.Sub(s.checked) < keepAliveInterval {
		return
	}
	s.checked = now
	if _, err := s.api.authorize(s.w, s.request, auditorRoles); err != nil {
		s.err = errRevoked
		return
	}
	if now.Sub(s.written) >= keepAliveInterval {
		s.keepAlive()
		s.flush()
	}
}

// errRevoked ends the stream of a client whose token is no longer one of an admin.
var errRevoked = errors.New("the token was revoked")

// keepAlive appends a line that is no event.
func (s *tailStream) keepAlive() {
	if s.query.progress {
		s.appendProgress()
		return
	}
	s.buf = append(s.buf, '\n')
}

// appendProgress appends a line that says how far the stream is, filtered-out events included.
func (s *tailStream) appendProgress() {
	s.told = s.tail.Cursor()
	s.buf = append(s.buf, `{"cursor":"`...)
	s.buf = s.told.AppendTo(s.buf)
	s.buf = append(s.buf, '"')
	if s.missing > 0 {
		s.buf = append(s.buf, `,"missing":`...)
		s.buf = strconv.AppendUint(s.buf, s.missing, 10)
	}
	if s.end {
		s.buf = append(s.buf, `,"end":true`...)
	}
	s.buf = append(s.buf, "}\n"...)
}

// finish ends the answer in order.
func (s *tailStream) finish(ctx context.Context) error {
	if s.err == nil && s.query.progress && (!s.begun || s.end || s.told != s.tail.Cursor()) {
		s.appendProgress()
	}
	s.write()
	if s.err != nil {
		return s.cut(ctx)
	}
	return nil
}

// fail ends the answer where the journal cannot be read on. What was sent before is whole lines.
func (s *tailStream) fail(ctx context.Context, err error) error {
	gone := errors.Is(err, tail.ErrCursorGone)
	if gone {
		s.api.metrics.tailOvertaken.Inc()
		s.api.log.Warn("a stream of events read so slowly that retention has overtaken it; resuming it will be answered 410", "err", err)
	}
	if !s.begun && len(s.buf) == 0 {
		return refuseTail(err)
	}
	if !gone {
		s.api.log.Error("a stream of events ended because the journal cannot be read", "err", err)
	}
	if finishErr := s.finish(ctx); finishErr != nil || gone {
		return finishErr
	}
	return errCut
}

// cut is the error of an answer that could not be written to its end. A client that has gone away is nothing to count.
func (s *tailStream) cut(ctx context.Context) error {
	if ctx.Err() != nil && !errors.Is(s.err, os.ErrDeadlineExceeded) || errors.Is(s.err, errRevoked) {
		return nil
	}
	return errCut
}
