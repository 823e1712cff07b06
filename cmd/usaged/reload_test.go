package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestReload changes the tokens of a running daemon, by SIGHUP and by request. What cannot be read changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	path := filepath.Join(d.dir, "tokens.yml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(data string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	post := func(token string) int {
		return d.do(http.MethodPost, eventsPath, "", map[string]string{"Authorization": "Bearer " + token}, []byte(`{"event_type":"a"}`)).status
	}
	write(string(good) + fmt.Sprintf("- {name: billing, role: producer, sha256: %x, user_id: acme}\n", sha256.Sum256([]byte("secret"))))
	if got := post("secret"); got != http.StatusUnauthorized {
		t.Errorf("before the reload: status %d, want 401", got)
	}
	d.signal(syscall.SIGHUP)
	eventually(t, "new token", func() error {
		if got := post("secret"); got != http.StatusAccepted {
			return fmt.Errorf("status %d", got)
		}
		return nil
	})
	write("- nonsense")
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusInternalServerError || !strings.Contains(string(a.body), "tokens.yml") {
		t.Errorf("reload of a bad file: status %d, %s; want 500 and the file's name", a.status, a.body)
	}
	if got := post("secret"); got != http.StatusAccepted {
		t.Errorf("after a bad reload: status %d, want 202", got)
	}
	write(string(good))
	if a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil); a.status != http.StatusOK {
		t.Errorf("reload: status %d, want 200", a.status)
	}
	if got := post("secret"); got != http.StatusUnauthorized {
		t.Errorf("after the token was taken away: status %d, want 401", got)
	}
	d.settle()
	if got := d.summary(1)["a"]["acme"]; got != 2 {
		t.Errorf("user acme has %d events, want 2", got)
	}
}

// TestListeners answers on every address, and serves profiles and metrics on the debug address alone.
func TestListeners(t *testing.T) {
	t.Parallel()
	d := newInstance(t, "--web.listen-address=127.0.0.1:0", "--debug.listen-address=127.0.0.1:0", "--web.metrics-auth")
	d.start()
	var urls []string
	debug := ""
	eventually(t, "log of the addresses", func() error {
		urls, debug = nil, ""
		for line := range strings.Lines(d.log.String()) {
			if _, url, ok := strings.Cut(line, "url="); ok {
				urls = append(urls, strings.TrimSpace(url))
			}
			if _, address, ok := strings.Cut(line, `msg="serving debug endpoints" address=`); ok {
				debug = "http://" + strings.TrimSpace(address)
			}
		}
		if len(urls) != 2 || debug == "" {
			return errors.New(d.log.String())
		}
		return nil
	})
	if d.url != urls[0] || urls[0] == urls[1] {
		t.Errorf("addresses %q, the first announced is %s", urls, d.url)
	}
	for _, url := range urls {
		d.url = url
		eventually(t, "ready", d.ready)
		if a := d.do(http.MethodGet, "/debug/pprof/", "admin", nil, nil); a.status != http.StatusNotFound {
			t.Errorf("/debug/pprof/ of %s: status %d, want 404", url, a.status)
		}
	}
	d.url = debug
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/metrics"} {
		if a := d.do(http.MethodGet, path, "", nil, nil); a.status != http.StatusOK {
			t.Errorf("%s of the debug address: status %d, want 200", path, a.status)
		}
	}
	d.stop()
}

// TestAReloadIsAllOrNothing changes the tokens well and the prices badly. The tokens of before stay in force, and the answer says so.
func TestAReloadIsAllOrNothing(t *testing.T) {
	t.Parallel()
	table := filepath.Join(t.TempDir(), "prices.csv")
	rewriteFile(t, table, "model,prompt\nlarge,3\n")
	d := newInstance(t, "--prices.file="+table)
	d.start()
	path := filepath.Join(d.dir, "tokens.yml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rewriteFile(t, path, string(good)+fmt.Sprintf("- {name: billing, role: producer, sha256: %x, user_id: acme}\n", sha256.Sum256([]byte("secret"))))
	rewriteFile(t, table, "model,prompt\nlarge,cheap\n")
	a := d.do(http.MethodPost, "/-/reload", "admin", nil, nil)
	if a.status != http.StatusInternalServerError || !strings.Contains(string(a.body), "nothing was changed") || !strings.Contains(string(a.body), "prices.csv:2") {
		t.Errorf("reload: status %d, %s; want 500, that nothing was changed, and the line", a.status, a.body)
	}
	header := map[string]string{"Authorization": "Bearer secret"}
	if a := d.do(http.MethodPost, eventsPath, "", header, []byte(`{"event_type":"a"}`)); a.status != http.StatusUnauthorized {
		t.Errorf("the new token is in force: status %d, want 401", a.status)
	}
}
