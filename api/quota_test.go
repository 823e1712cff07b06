package api_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"usaged/api"
	"usaged/api/quota"
	"usaged/tools/waittest"
)

// withQuotas has a quotas file in force.
func withQuotas(t testing.TB, text string) func(*api.Config) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quotas.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := quota.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *api.Config) { c.Quotas = quota.NewAccounts(cfg, nil) }
}

const userHead = "POST " + events + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer usaged_user_test\r\n"

// hold opens connections that send the beginning of a body and then nothing.
func hold(t *testing.T, r *rig, n int, request string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := api.Server(r.handler, r.cfg.Logger)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	for range n {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		go func() { _, _ = io.WriteString(conn, request) }() // a server that has refused the request may close before its end
	}
}

// waitFor waits until the metrics hold something.
func (r *rig) waitFor(t *testing.T, line string) {
	t.Helper()
	waittest.Until(t, "have "+line+" in the metrics", func() error {
		if !strings.Contains(r.metricsText(), line) {
			return errors.New("they are:\n" + r.metricsText())
		}
		return nil
	})
}

// TestAnnouncedBodiesTakeNoMemory holds that 520 bodies which announce 256 KiB and send one byte are charged for what has arrived, so that
// everybody else is served and the daemon stays ready.
func TestAnnouncedBodiesTakeNoMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const conns = 520
	hold(t, r, conns, userHead+"Content-Length: 262144\r\n\r\n[")
	r.waitFor(t, fmt.Sprintf("usaged_ingest_inflight_bytes %d\n", conns*4096))
	if rec := r.call("POST", events, "producer", one); rec.Code != http.StatusAccepted {
		t.Errorf("another token: %d %s", rec.Code, rec.Body)
	}
	if rec := r.call("GET", "/-/ready", "", ""); rec.Code != http.StatusOK {
		t.Errorf("ready: %d %s", rec.Code, rec.Body)
	}
}

// TestOneTokenLeavesRoomForBodies fills the share of one token with bodies that really send much and never end.
func TestOneTokenLeavesRoomForBodies(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hold(t, r, 40, userHead+"Content-Length: 8388608\r\n\r\n["+strings.Repeat(" ", 1<<20))
	r.waitFor(t, `usaged_quota_exceeded_total{token="the-user",quota="memory"}`)
	if rec := r.call("POST", events, "producer", one); rec.Code != http.StatusAccepted {
		t.Errorf("another token: %d %s", rec.Code, rec.Body)
	}
	if rec := r.call("GET", "/-/ready", "", ""); rec.Code != http.StatusOK {
		t.Errorf("ready: %d %s", rec.Code, rec.Body)
	}
}

// TestReadinessFollowsMemory takes nearly all memory for bodies.
func TestReadinessFollowsMemory(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.MaxInflightBytes = 4096 })
	r.journal.gate = make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.call("POST", events, "producer", one)
	}()
	r.waitFor(t, "usaged_ingest_inflight_bytes 4096\n")
	if rec := r.call("GET", "/-/ready", "", ""); rec.Code != http.StatusServiceUnavailable {
		t.Errorf("full: %d %s", rec.Code, rec.Body)
	}
	close(r.journal.gate)
	<-done
	if rec := r.call("GET", "/-/ready", "", ""); rec.Code != http.StatusOK {
		t.Errorf("empty again: %d %s", rec.Code, rec.Body)
	}
}

// TestBodiesHaveToKeepUp sends bodies byte by byte.
func TestBodiesHaveToKeepUp(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		piece  int // bytes a second
		status string
		within time.Duration
	}{
		{"a byte a second is cut off", 1, "HTTP/1.1 408 ", 10 * time.Second},
		{"32 KiB a second is fast enough", 32 << 10, "HTTP/1.1 202 ", 20 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				conn, stop := serve(t, r)
				sent := make(chan struct{})
				defer func() {
					stop()
					<-sent
				}()
				start := time.Now()
				body := one + strings.Repeat(" ", 400<<10-len(one))
				go func() {
					defer close(sent)
					_, _ = fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n", head, len(body))
					for rest := body; len(rest) > 0; rest = rest[min(tc.piece, len(rest)):] {
						if _, err := io.WriteString(conn, rest[:min(tc.piece, len(rest))]); err != nil {
							return
						}
						time.Sleep(time.Second) // of the bubble's clock
					}
				}()
				answer := make([]byte, len(tc.status))
				if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != tc.status {
					t.Errorf("answer %q, %v", answer, err)
				}
				if took := time.Since(start); took > tc.within {
					t.Errorf("answered after %s", took)
				}
			})
		})
	}
}

// TestQuotasRefuse spends each quota of a token, which leaves those of others alone.
func TestQuotasRefuse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, quotas, body, quota string }{
		{"events", "- {role: producer, events_per_second: 1}\n", "[" + strings.Repeat(one+",", 9_999) + one + "]", "events"},
		{"ids", "- {token: the-producer, ids_per_second: 1}\n",
			"[" + strings.Repeat(`{"event_type":"a","id":"1"},`, 9_999) + one + "]", "ids"},
		{"bytes", "- {role: producer, bytes_per_second: 1}\n", one + strings.Repeat(" ", 8<<20-len(one)), "bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, withQuotas(t, tc.quotas))
			rec := r.call("POST", events, "producer", tc.body)
			if rec.Code != http.StatusAccepted {
				t.Fatalf("the first: %d %s", rec.Code, rec.Body)
			}
			before := len(r.journal.accepted())
			for rec.Code == http.StatusAccepted { // what a bucket gains meanwhile may let a second one pass
				rec = r.call("POST", events, "producer", tc.body)
			}
			if rec.Code != http.StatusTooManyRequests || !strings.Contains(rec.Body.String(), `"quota_exceeded"`) || rec.Header().Get("Retry-After") == "" {
				t.Errorf("one more: %d %s, Retry-After %q", rec.Code, rec.Body, rec.Header().Get("Retry-After"))
			}
			if got := len(r.journal.accepted()); got%before != 0 {
				t.Errorf("%d events were accepted of batches of %d", got, before)
			}
			if text, want := r.metricsText(), fmt.Sprintf("usaged_quota_exceeded_total{token=%q,quota=%q} 1\n", "the-producer", tc.quota); !strings.Contains(text, want) {
				t.Errorf("metrics lack %s:\n%s", want, text)
			}
			if rec := r.call("POST", events, "admin", tc.body); rec.Code != http.StatusAccepted {
				t.Errorf("another token: %d %s", rec.Code, rec.Body)
			}
		})
	}
}

// TestProducersHaveNoQuota sends what a busy platform sends.
func TestProducersHaveNoQuota(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *api.Config) { c.Accepter = acceptAll{} })
	batch := "[" + strings.Repeat(one+",", 9_999) + one + "]"
	for i := range 30 {
		if rec := r.call("POST", events, "producer", batch); rec.Code != http.StatusAccepted {
			t.Fatalf("batch %d: %d %s", i, rec.Code, rec.Body)
		}
	}
}
