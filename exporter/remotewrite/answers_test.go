package remotewrite_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"

	"usaged/exporter/remotewrite"
	"usaged/exporter/remotewrite/remotewritetest"
)

// proxy stands before a receiver and may answer in its place.
func proxy(t *testing.T, receiver *remotewritetest.Receiver, answer func(w http.ResponseWriter, body string) bool) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || answer(w, string(body)) {
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, receiver.URL, strings.NewReader(string(body)))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header = r.Header.Clone()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestARequestThatIsTooLarge is sent in parts, down to what the receiver takes, by both versions.
func TestARequestThatIsTooLarge(t *testing.T) {
	t.Parallel()
	for _, version := range []remoteapi.WriteMessageType{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType} {
		t.Run(string(version), func(t *testing.T) {
			t.Parallel()
			w, receiver := newWorld(t), remotewritetest.New(t)
			to := proxy(t, receiver, func(w http.ResponseWriter, body string) bool {
				if len(body) > 600 {
					w.WriteHeader(http.StatusRequestEntityTooLarge)
					return true
				}
				return false
			})
			w.apply(endpoint(t, to, version))
			w.scrape(500)
			w.scrape(500)
			w.clock.Add(interval.Milliseconds())
			receiver.Await(t, "all samples", func() bool { return len(receiver.Samples()) == 500 })
			w.close(w.writer, time.Minute)
			w.counted(0, 1000)
		})
	}
}

// TestARedirectIsNotFollowed neither by a GET nor by a POST, and nothing counts as sent.
func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var strayed, asked atomic.Int64
			twice := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/login" {
					strayed.Add(1)
					return
				}
				if asked.Add(1) == 2 {
					close(twice)
				}
				http.Redirect(w, r, "/login", status)
			}))
			t.Cleanup(server.Close)
			w.apply(endpoint(t, server.URL, remoteapi.WriteV1MessageType))
			w.scrape(3)
			w.clock.Add(interval.Milliseconds())
			<-twice
			if n := strayed.Load(); n != 0 {
				t.Errorf("the redirect was followed %d times", n)
			}
			w.counted(0, 0)
		})
	}
}

// TestNamesHaveNoSecrets shows names of endpoints as metrics and logs have them.
func TestNamesHaveNoSecrets(t *testing.T) {
	t.Parallel()
	for to, want := range map[string]string{
		"https://user:S3CR3T@host/w":         "https://user:xxxxx@host/w",
		"https://S3CR3T@host/w":              "https://xxxxx@host/w",
		"https://host/w?token=S3CR3T&tenant": "https://host/w?token=xxxxx&xxxxx",
		"https://host/w?S3CR3T#S3CR3T":       "https://host/w?xxxxx",
		"https://host/w":                     "https://host/w",
	} {
		e := endpoint(t, to, remoteapi.WriteV1MessageType)
		if got := remotewrite.Name(e); got != want {
			t.Errorf("%s is called %s, want %s", to, got, want)
		}
		e.Headers = map[string]string{"X-Key": "S3CR3T"}
		if shown := remotewrite.Redacted(e); strings.Contains(shown.URL.String()+shown.Headers["X-Key"], "S3CR3T") {
			t.Errorf("%s is shown as %s with %v", to, shown.URL, shown.Headers)
		}
	}
}
