package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usaged/aggregator"
	"usaged/aggregator/ledger"
	"usaged/aggregator/meter"
	"usaged/aggregator/rollup"
	"usaged/aggregator/store/sqlite"
	"usaged/api"
	"usaged/tools/waittest"
)

// TestEventsComeBack posts events to a real journal and reads them from a real store.
func TestEventsComeBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := func() time.Time { return noon }
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(dir, "usage.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	agg, err := aggregator.Open(aggregator.Config{Dir: dir, Store: db, Meters: meter.Builtin(), Retention: retention, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agg.Close() }()
	r := newRig(t, func(c *api.Config) {
		c.Accepter, c.Ledger, c.Ready = agg, agg, agg.Ready
		c.Reader = rollup.NewReader(rollup.Config{Store: db, Meters: agg.Meters, Retention: retention, Now: now})
	})
	tag := r.call("GET", "/api/v1/usage/summary", "admin", "").Header().Get("Etag")
	twice := `{"id":"1","user_id":"bob","event_type":"sql_generation","metadata":{"question":"why?","prompt_tokens":"3","model":"m"}}`
	for range 2 {
		if rec := r.call("POST", events, "producer", "["+twice+","+one+"]"); rec.Code != http.StatusAccepted {
			t.Fatalf("status %d: %s", rec.Code, rec.Body)
		}
	}
	r.settle(t)
	for path, want := range map[string]string{
		"summary?days=1": `{"summary":{"sql_execution":{"the-producer":2},"sql_generation":{"bob":1}},` +
			`"generated_at":"2026-11-23T12:00:00Z","days":1,"from":"2026-11-23","to":"2026-11-23","pending":0}`,
		"users":                   `{"the-producer":2,"bob":1}`,
		"queries":                 `{"why?":1}`,
		"llm-tokens":              `{"bob":3}`,
		"llm-tokens?by=reference": `{"m":3}`,
		"daily?days=2":            `{"daily":{"2026-11-22":{},"2026-11-23":{"sql_execution":2,"sql_generation":1}},"pending":0}`,
	} {
		rec := r.call("GET", "/api/v1/usage/"+path, "admin", "", "If-None-Match", tag)
		if got := strings.TrimSpace(rec.Body.String()); rec.Code != http.StatusOK || got != want {
			t.Errorf("%s: status %d, %s, want %s", path, rec.Code, got, want)
		}
	}
}

// settle waits until nothing is pending.
func (r *rig) settle(t *testing.T) {
	t.Helper()
	waittest.Until(t, "apply what was accepted", func() error {
		rec := r.call("GET", "/api/v1/usage/ledger", "admin", "")
		var books struct{ All ledger.Account }
		if err := json.Unmarshal(rec.Body.Bytes(), &books); err != nil {
			t.Fatalf("status %d, %s: %v", rec.Code, rec.Body, err)
		}
		all := books.All
		if all.Accepted != all.Counted+all.Duplicates+all.Pending+all.Damaged {
			t.Fatalf("the ledger doesn't add up: %+v", all)
		}
		if all.Pending > 0 {
			return fmt.Errorf("%d events are pending", all.Pending)
		}
		return nil
	})
}
