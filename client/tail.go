package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-json-experiment/json"
)

const (
	// maxTailSilence is how long a stream may be silent before it is taken for dead. The server breaks a silence after 15 s.
	maxTailSilence = 45 * time.Second
	// maxTailBackoff is the longest pause between two tries to connect.
	maxTailBackoff = 5 * time.Second
	// maxLineBytes is more than any event takes, every byte of it escaped.
	maxLineBytes = 1 << 20
)

// TailQuery says which accepted events to read, and from where on.
type TailQuery struct {
	// After is the cursor of the last event that the caller has; it goes before Since. Without both the oldest event that the
	// server keeps comes first.
	After string
	// Since is a time (RFC 3339) or how long ago (15m, 24h, 7d); 0s is now.
	Since string
	// EventType and UserID filter.
	EventType, UserID string
	// Limit is the most events to read, 0 for all: without Follow all that there are when the server begins to answer.
	Limit int
	// Follow goes on with events as they are accepted, until the context ends.
	Follow bool
	// Progress asks for items without an event too: how far the server is with what the filters leave out.
	Progress bool
	// Notify is told of a break that is being mended. Nil: nobody is.
	Notify func(err error, retry time.Duration)
}

// Accepted is an accepted event, or progress.
type Accepted struct {
	// Cursor stands behind this event.
	Cursor string `json:"cursor"`
	// AcceptedAt is the server's time of acceptance.
	AcceptedAt time.Time `json:"accepted_at"`
	// Token is the name of the token that posted the event.
	Token string `json:"token"`
	// Event is the event. ID is there also where the client sent none, and the same on every reading.
	Event
	// Missing is how many events of this stream were left out because they are damaged on the server. Only progress has it.
	Missing uint64 `json:"missing"`

	// End says that nothing more was there when the server began to answer. Only progress has it.
	End bool `json:"end"`

	// Line is the JSON as it came, without a newline. It is valid until the next one is read.
	Line []byte `json:"-"`
}

// IsEvent says whether it is an event, and not progress.
func (a *Accepted) IsEvent() bool { return a.Type != "" }

// Tail reads accepted events, oldest first, and connects again where the connection breaks or the server restarts: each
// event comes once, none is left out. It ends with an error where the context ends, where the server refuses (a [*Problem]: 409
// and 410 say that a cursor leads nowhere), and without Follow where nobody answers for [Config.RetryFor]. A server that
// answers nobody is waited for, with Follow, as long as the context lasts.
//
//	for e, err := range c.Tail(ctx, client.TailQuery{After: cursor, Follow: true}) {
//		if err != nil {
//			return err
//		}
//		…
//		cursor = e.Cursor
//	}
func (c *Client) Tail(ctx context.Context, q TailQuery) iter.Seq2[*Accepted, error] {
	return func(yield func(*Accepted, error) bool) {
		t := &tail{client: c, query: q, left: q.Limit, retryFor: c.retryFor}
		if err := t.run(ctx, yield); err != nil && !errors.Is(err, errTailLeft) {
			yield(nil, err)
		}
	}
}

// errTailLeft says that the caller has left its loop.
var errTailLeft = errors.New("nobody reads")

// tail is a tail over any number of connections.
type tail struct {
	client   *Client
	query    TailQuery
	left     int // events to read where there is a limit
	retryFor time.Duration
	alive    bool // the connection has brought something
	end      bool // all was read that was there
}

func (t *tail) run(ctx context.Context, yield func(*Accepted, error) bool) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 100*time.Millisecond, maxTailBackoff
	broken := time.Now()
	for {
		t.alive = false
		err := t.once(ctx, yield)
		switch {
		case errors.Is(err, errTailLeft):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && (t.end || t.query.Limit > 0 && t.left <= 0):
			return nil
		}
		if t.alive {
			wait.Reset()
			broken = time.Now()
		}
		pause := wait.NextBackOff()
		if err != nil {
			if !mendable(err) || !t.query.Follow && time.Since(broken) >= t.retryFor {
				return err
			}
			if problem, ok := errors.AsType[*Problem](err); ok {
				pause = max(pause, problem.RetryAfter)
			}
			if t.query.Notify != nil {
				t.query.Notify(err, pause)
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// mendable says whether it is worth to connect again.
func mendable(err error) bool {
	if problem, ok := errors.AsType[*Problem](err); ok {
		return problem.Temporary()
	}
	_, ok := errors.AsType[*Unreachable](err)
	return ok
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// once reads over one connection, until it ends.
func (t *tail) once(ctx context.Context, yield func(*Accepted, error) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(maxTailSilence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	req := request{method: http.MethodGet, path: eventsPath, query: t.values()}
	resp, err := t.client.stream(ctx, req)
	if err != nil {
		return t.explain(ctx, req, err)
	}
	defer resp.Body.Close()
	scan := bufio.NewScanner(&watched{resp.Body, watchdog})
	scan.Buffer(make([]byte, 64<<10), maxLineBytes)
	scan.Split(wholeLines)
	for scan.Scan() {
		t.alive = true
		if err := t.take(scan.Bytes(), yield); err != nil {
			return err
		}
	}
	if err := scan.Err(); err != nil {
		return t.explain(ctx, req, err)
	}
	return nil
}

var errSilent = fmt.Errorf("nothing came for %s", maxTailSilence)

// explain makes an error of a connection mendable, unless the caller has ended it.
func (t *tail) explain(ctx context.Context, req request, err error) error {
	if _, refused := errors.AsType[*Problem](err); refused {
		return err
	}
	if errors.Is(context.Cause(ctx), errSilent) {
		return &Unreachable{Method: req.method, Path: req.path, Err: errSilent}
	}
	if errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("GET %s: a line of more than %d bytes: is it usaged?", req.path, maxLineBytes)
	}
	return unreachable(ctx, req, err)
}

// wholeLines splits at newlines, and leaves out what a broken connection has left behind the last.
func wholeLines(data []byte, _ bool) (advance int, line []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	return 0, nil, nil
}

// watched tells a watchdog of every read.
type watched struct {
	io.Reader
	watchdog *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.watchdog.Reset(maxTailSilence)
	}
	return n, err
}

func (t *tail) values() url.Values {
	v := url.Values{"progress": {"true"}} // also what is filtered out has to be read only once
	for name, value := range map[string]string{"after": t.query.After, "event_type": t.query.EventType, "user_id": t.query.UserID} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if t.query.Since != "" && t.query.After == "" {
		v.Set("since", t.query.Since)
	}
	if t.query.Follow {
		v.Set("follow", "true")
	}
	switch {
	case t.query.Limit > 0:
		v.Set("limit", strconv.Itoa(min(t.left, maxTailLimit)))
	case !t.query.Follow:
		v.Set("limit", strconv.Itoa(maxTailLimit))
	}
	return v
}

// maxTailLimit is the most events that the server gives in one answer that does not follow.
const maxTailLimit = 1_000_000

func (t *tail) take(line []byte, yield func(*Accepted, error) bool) error {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	a := &Accepted{Line: line}
	if err := json.Unmarshal(line, a); err != nil {
		return fmt.Errorf("read a line of %s: %w", eventsPath, err)
	}
	if a.IsEvent() {
		t.left--
	}
	if (a.IsEvent() || t.query.Progress) && !yield(a, nil) {
		return errTailLeft
	}
	t.query.After = a.Cursor
	t.end = a.End && !t.query.Follow
	return nil
}

// stream begins a request whose answer has no end. The caller closes its body.
func (c *Client) stream(ctx context.Context, req request) (*http.Response, error) {
	hreq, err := c.newRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	endless := *c.http
	endless.Timeout = 0
	resp, err := endless.Do(hreq)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, c.maxBytes))
	if err != nil {
		return nil, err
	}
	return nil, newProblem(resp, body)
}
