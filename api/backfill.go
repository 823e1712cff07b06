package api

import (
	"net/http"

	"github.com/go-json-experiment/json"

	"usaged/api/auth"
	"usaged/exporter/backfill"
)

// Backfiller writes the past into the embedded Prometheus.
type Backfiller interface {
	// BackfillState says how far it is.
	BackfillState() backfill.State
	// Backfill has it done, and returns when that is noted durably.
	Backfill() error
}

// getBackfill answers how far the backfill is, and what the last one did.
func (a *API) getBackfill(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := a.canBackfill(r); err != nil {
		return err
	}
	return a.backfillState(w, http.StatusOK)
}

// postBackfill has the past written, and answers how far that is.
func (a *API) postBackfill(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := a.canBackfill(r); err != nil {
		return err
	}
	if err := a.cfg.Backfill.Backfill(); err != nil {
		return err
	}
	return a.backfillState(w, http.StatusAccepted)
}

func (a *API) canBackfill(r *http.Request) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	if a.cfg.Backfill == nil {
		return refuse(prometheusOff, "there is nothing to write the past into, since --prometheus.enabled=false: start usaged without that")
	}
	return nil
}

func (a *API) backfillState(w http.ResponseWriter, status int) error {
	state := a.cfg.Backfill.BackfillState()
	last, err := json.Marshal(state.Last)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	return streamJSON(w, func(s *stream) {
		s.raw(`{"phase":"` + state.Phase + `","events":`)
		s.number(state.Events)
		s.raw(`,"done":`)
		s.number(state.Done)
		if state.Error != "" {
			s.raw(`,"error":`)
			s.text(state.Error)
		}
		if state.Last != nil {
			s.raw(`,"last":`)
			s.raw(string(last))
		}
		s.raw("}")
	})
}
