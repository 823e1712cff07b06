package api

import (
	"net/http"

	"usaged/aggregator/meter"
	"usaged/api/auth"
)

// LabelRoom knows the values that the labels of usage metrics have.
type LabelRoom interface {
	LabelStates() []meter.LabelState
	// FreeLabel gives the room of a value to others, and returns the labels that had it. It returns when that is durable.
	FreeLabel(value string) (labels []string, err error)
}

type labelsAnswer struct {
	Labels []meter.LabelState `json:"labels"`
}

// getLabels answers which values the labels have, and how much room is left.
func (a *API) getLabels(w http.ResponseWriter, r *http.Request, _ *auth.Token) error {
	if err := parseQuery(r).err(); err != nil {
		return err
	}
	return writeJSON(w, labelsAnswer{a.cfg.Labels.LabelStates()})
}

// maxLabelBytes is more than any value has: three references of a label set, each of whose characters may be escaped.
const maxLabelBytes = 4 << 10

// postFreeLabel gives the room of a value to others.
func (a *API) postFreeLabel(w http.ResponseWriter, r *http.Request, who *auth.Token) error {
	q := parseQuery(r)
	value := q.text("value", maxLabelBytes)
	if value == "" {
		q.fault("value", codeBadValue, "value is missing: it names the value whose room is given to others")
	}
	if err := q.err(); err != nil {
		return err
	}
	labels, err := a.cfg.Labels.FreeLabel(value)
	if err != nil {
		return err
	}
	if len(labels) == 0 {
		return refuse(notFound, "no label has this value, or it takes no room: `usagectl labels list` shows them")
	}
	a.log.Warn("the room of a label's value was given to others", "token", who.Name, "labels", labels) // the value is a client's text
	return writeJSON(w, labelsAnswer{a.cfg.Labels.LabelStates()})
}
