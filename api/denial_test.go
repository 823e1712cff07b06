package api_test

import (
	"strings"
	"testing"
)

// TestDenialsAreLogged holds that refusals because of who sent a request are counted each, logged once in a while, and never with the token.
func TestDenialsAreLogged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 5 {
		r.call("GET", "/api/v1/usage/summary", "stranger", "")
		r.call("GET", "/api/v1/usage/summary", "user", "")
		r.call("POST", events, "user", `{"event_type":"a","user_id":"bob"}`)
	}
	log := r.log.String()
	for _, want := range []string{"code=unauthorized handler=summary", "code=forbidden handler=summary", "token=the-user", "code=foreign_user handler=events"} {
		if strings.Count(log, want) != 1 {
			t.Errorf("the log has %q %d times, want once:\n%s", want, strings.Count(log, want), log)
		}
	}
	if strings.Contains(log, tokenOf("stranger")) || strings.Contains(log, tokenOf("user")) || strings.Contains(log, "bob") {
		t.Errorf("the log shows what was presented:\n%s", log)
	}
	for _, want := range []string{"unauthorized", "forbidden", "foreign_user"} {
		if line := `usaged_http_denied_total{reason="` + want + `"} 5`; !strings.Contains(r.metricsText(), line) {
			t.Errorf("metrics lack %s", line)
		}
	}
}

// TestNothingIsSniffed asks for answers of all kinds.
func TestNothingIsSniffed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, path := range []string{"/", "/metrics", "/-/healthy", "/nowhere", events, "/api/v1/usage/summary", "/api/v1/openapi.yaml", "/prometheus/api/v1/query"} {
		if rec := r.call("GET", path, "admin", ""); rec.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d without it", path, rec.Code)
		}
	}
}

// TestHiddenCharactersAreEscaped has names that would act on a terminal come back in answers, errors and CSV.
func TestHiddenCharactersAreEscaped(t *testing.T) {
	t.Parallel()
	r := newTailRig(t)
	const hostile = "\u009b31m\u202ered\u2066\x7f"
	body := `{"event_type":"a","user_id":"` + hostile + `","metadata":{"` + hostile + `":"\u001b[31m` + hostile + `"}}`
	if rec := r.call("POST", events, "producer", body); rec.Code != 202 {
		t.Fatal(rec.Body)
	}
	r.rollups.types = manyRows(1)
	r.rollups.types[0].Users[0].Key = "\x1b[31m" + hostile
	for name, text := range map[string]string{
		"the tail":  r.call("GET", events, "admin", "").Body.String(),
		"a summary": r.call("GET", "/api/v1/usage/summary", "admin", "").Body.String(),
		"an error":  r.call("POST", events, "producer", `{"event_type":"a","metadata":{"`+hostile+`":1}}`).Body.String(),
		"CSV":       r.call("GET", "/api/v1/usage/summary", "admin", "", "Accept", "text/csv").Body.String(),
	} {
		if strings.ContainsAny(text, "\x1b\x7f\u009b\u202e\u2066") || !strings.Contains(text, `\u202e`) {
			t.Errorf("%s shows %q", name, text)
		}
	}
}
