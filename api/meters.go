package api

import (
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/mux"

	"usaged/aggregator"
	"usaged/aggregator/meter"
	"usaged/api/auth"
)

// getMeters answers what the meters count.
func (a *API) getMeters(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	states := a.cfg.Meters.MeterStates()
	w.Header().Set("Cache-Control", "no-store")
	return streamJSON(w, func(s *stream) {
		s.raw(`{"meters":[`)
		for i := range states {
			if i > 0 {
				s.raw(",")
			}
			s.meterState(&states[i])
		}
		s.raw("]}")
	})
}

// postRebuild has the past of a meter counted, and answers how far that is.
func (a *API) postRebuild(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	name := mux.Vars(r)["meter"]
	if err := a.cfg.Meters.RebuildMeter(name); errors.Is(err, aggregator.ErrNoMeter) {
		return refuse(unknownMeter, "there is no such meter; there are: "+meterNames(a.cfg.Reader.Meters()))
	} else if err != nil {
		return err
	}
	states := a.cfg.Meters.MeterStates()
	for i := range states {
		if states[i].Name != name {
			continue
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header()["Content-Type"] = jsonType
		w.WriteHeader(http.StatusAccepted)
		return streamJSON(w, func(s *stream) { s.meterState(&states[i]) })
	}
	return refuse(unknownMeter, "there is no such meter any more")
}

// meterState encodes what a meter counts, and how much of the past.
func (s *stream) meterState(m *aggregator.MeterState) {
	by := "user"
	if m.Default() == meter.ByReference {
		by = "reference"
	}
	s.raw(`{"name":`)
	s.text(m.Name)
	s.raw(`,"description":`)
	s.text(m.Description)
	s.raw(`,"events":`)
	s.texts(m.Events)
	s.raw(`,"reference":`)
	s.text(m.Reference)
	s.raw(`,"value":`)
	s.text(m.Value)
	s.raw(`,"sum":`)
	s.texts(m.Sum)
	s.raw(`,"by":"` + by + `","builtin":`)
	s.boolean(m.Builtin)
	if m.Metric != nil {
		s.raw(`,"metric":`)
		s.text(m.Metric.Name)
	}
	if !m.Since.IsZero() {
		s.raw(`,"since":"` + m.Since.UTC().Format(time.RFC3339) + `"`)
	}
	s.raw(`,"complete":`)
	s.boolean(m.Complete)
	if m.Rebuild != nil {
		s.raw(`,"rebuild":{"phase":"` + m.Rebuild.Phase + `","events":`)
		s.number(m.Rebuild.Events)
		s.raw(`,"done":`)
		s.number(m.Rebuild.Done)
		s.raw("}")
	}
	s.raw("}")
}

// texts encodes a list of strings.
func (s *stream) texts(list []string) {
	s.raw("[")
	for i, v := range list {
		if i > 0 {
			s.raw(",")
		}
		s.text(v)
	}
	s.raw("]")
}

func (s *stream) boolean(v bool) {
	if v {
		s.raw("true")
		return
	}
	s.raw("false")
}
