package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestToken makes and revokes tokens with the tool beside a running daemon. They are good, and no longer good, at once.
func TestToken(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	post := func(token string) int {
		return d.do(http.MethodPost, eventsPath, "", map[string]string{"Authorization": "Bearer " + token}, []byte(`{"event_type":"a"}`)).status
	}
	ran := func(code int, args ...string) result {
		t.Helper()
		r := d.usagectl(args...)
		if r.code != code {
			t.Fatalf("usagectl %v: exit code %d, want %d: %s", args, r.code, code, r.stderr)
		}
		return r
	}
	made := ran(0, "token", "new", "--name=billing", "--role=producer", "--user-id=acme")
	token := strings.TrimSuffix(made.stdout, "\n")
	if !strings.Contains(made.stderr, "the daemon knows it") || post(token) != http.StatusAccepted {
		t.Errorf("the new token is not known: %+v", made)
	}
	ran(0, "token", "revoke", "billing")
	if got := post(token); got != http.StatusUnauthorized {
		t.Errorf("after it was revoked: status %d, want 401", got)
	}
	if d.settle(); d.summary(1)["a"]["acme"] != 1 {
		t.Errorf("summary %v, want an event of acme", d.summary(1))
	}

	// The tool's own token, from one to the next. What it used is taken away last, and with it its file.
	old := d.token("admin")
	ran(1, "token", "revoke", "admin")
	ran(0, "token", "new", "--name=admin-2", "--role=admin", "--to-file="+filepath.Join(d.dir, "admin.token"))
	ran(0, "token", "revoke", "admin")
	ran(0, "ledger")
	if post(old) != http.StatusUnauthorized || post(d.token("admin")) != http.StatusAccepted {
		t.Error("the old admin's token is still good, or the new one is not")
	}
	if r := ran(0, "token", "revoke", "admin-2", "--force"); !strings.Contains(r.stdout, "admin.token, which held it") {
		t.Errorf("%+v", r)
	}

	// Nobody can ask for a reload now: a signal can.
	r := ran(1, "token", "revoke", "producer")
	if !strings.Contains(r.stderr, "kill -HUP") || post(d.token("producer")) != http.StatusAccepted {
		t.Errorf("%+v", r)
	}
	d.signal(syscall.SIGHUP)
	eventually(t, "the revocation", func() error {
		if got := post(d.token("producer")); got != http.StatusUnauthorized {
			return fmt.Errorf("status %d", got)
		}
		return nil
	})
	d.stop()
}

// TestTokenOfAnotherFile reloads a daemon that reads another tokens file than the one that was changed.
func TestTokenOfAnotherFile(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	other := filepath.Join(t.TempDir(), "tokens.yml")
	data, err := os.ReadFile(filepath.Join(d.dir, "tokens.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r := d.usagectl("token", "new", "--name=x", "--role=user", "--tokens-file="+other)
	if r.code != 0 || !strings.Contains(r.stderr, "does it read another file than "+other) {
		t.Errorf("%+v", r)
	}
}
