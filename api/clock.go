package api

import (
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"usaged/aggregator/clock"
	"usaged/aggregator/event"
	"usaged/api/auth"
)

// Clock is the time by which events are stamped and old data is deleted.
type Clock interface {
	State() clock.State
	// Accept makes the wall clock's time the time, and returns when that is durable.
	Accept() (clock.State, error)
}

// clockAnswer is the state of the clock as clients see it.
type clockAnswer struct {
	Time        time.Time `json:"time"`
	Wall        time.Time `json:"wall"`
	JumpSeconds float64   `json:"jump_seconds"`
	Deletion    time.Time `json:"deletion"`
}

// getClock answers what time it is, and whether the wall clock agrees.
func (a *API) getClock(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	return writeClock(w, a.cfg.Clock.State())
}

// postAccept makes the wall clock's time the time.
func (a *API) postAccept(w http.ResponseWriter, r *http.Request, who *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	a.log.Warn("accepting the wall clock was asked for", "token", who.Name, "jump_seconds", a.cfg.Clock.State().Jump.Seconds())
	state, err := a.cfg.Clock.Accept()
	if err != nil {
		return err
	}
	return writeClock(w, state)
}

func writeClock(w http.ResponseWriter, s clock.State) error {
	return writeJSON(w, clockAnswer{
		Time: s.Now.Truncate(time.Second), Wall: s.Wall.Truncate(time.Second), Deletion: s.Deletion.Truncate(time.Second),
		JumpSeconds: s.Jump.Round(time.Second).Seconds(),
	})
}

// writeJSON answers with a small value that changes from one moment to the next.
func writeJSON(w http.ResponseWriter, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header()["Content-Type"] = jsonType
	_, err = w.Write(append(event.VisibleJSON(body), '\n'))
	return cutBy(err)
}
