package api_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"usaged/api"
)

// FuzzPostEvents sends anything as anything. Whatever comes: the answer is 202 and says how many events are in the
// journal, or it is a problem and none are; and nothing stays in flight.
func FuzzPostEvents(f *testing.F) {
	for _, e := range postExchanges() {
		h := http.Header{}
		for i := 0; i < len(e.header); i += 2 {
			h.Set(e.header[i], e.header[i+1])
		}
		if len(e.body) < 10_000 {
			f.Add([]byte(e.body), h.Get("Content-Type"), h.Get("Content-Encoding"), e.role == "user")
		}
	}
	r := newRig(f, func(c *api.Config) { c.Logger = slog.New(slog.DiscardHandler) })
	f.Fuzz(func(t *testing.T, body []byte, contentType, encoding string, bound bool) {
		role := "producer"
		if bound {
			role = "user"
		}
		before := len(r.journal.accepted())
		rec := r.call("POST", events, role, string(body), "Content-Type", contentType, "Content-Encoding", encoding)
		accepted := len(r.journal.accepted()) - before
		var answer struct {
			Status   any
			Accepted *int
			Code     string
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
			t.Fatalf("status %d with %q: %v", rec.Code, rec.Body, err)
		}
		switch {
		case rec.Code == http.StatusAccepted:
			if answer.Accepted == nil && accepted != 1 || answer.Accepted != nil && *answer.Accepted != accepted {
				t.Errorf("%q: %s, and %d events were accepted", body, rec.Body, accepted)
			}
		case rec.Code/100 != 4 || answer.Code == "" || accepted != 0:
			t.Errorf("%q: status %d, %s, and %d events were accepted", body, rec.Code, rec.Body, accepted)
		}
		if !strings.Contains(r.metricsText(), "usaged_ingest_inflight_bytes 0\n") {
			t.Errorf("%q: memory is still taken", body)
		}
	})
}
