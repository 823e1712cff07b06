package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// stranger is a host that wants a token, and notes whether it got one.
type stranger struct {
	*httptest.Server
	got atomic.Value
}

func newStranger(t *testing.T) *stranger {
	t.Helper()
	s := &stranger{}
	s.got.Store("")
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token := r.Header.Get("Authorization"); token != "" {
			s.got.Store(token)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestTokensGoToTheirDaemonAlone(t *testing.T) {
	d := newFakeDaemon(t)
	t.Run("it keeps a data directory's token from another daemon", func(t *testing.T) {
		other := newStranger(t)
		for _, args := range [][]string{{"summary"}, {"send", "--type=a"}, {"tail"}, {"ledger"}, {"doctor"}} {
			tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
			if code := tl.run(t, append(args, "--url="+other.URL)...); code == exitOK {
				t.Errorf("%v: exit 0", args)
			}
			if args[0] == "summary" && !strings.Contains(tl.stderr.String(), "--token-file=") {
				t.Errorf("stderr does not say what to do: %s", &tl.stderr)
			}
		}
		if got := other.got.Load(); got != "" {
			t.Errorf("the other daemon got %q", got)
		}
	})
	t.Run("it sends it to its own by another name", func(t *testing.T) {
		tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
		if code := tl.run(t, "ledger", "--url="+strings.Replace(d.URL, "127.0.0.1", "localhost", 1)+"/"); code != exitOK {
			t.Errorf("exit %d: %s", code, &tl.stderr)
		}
	})
	t.Run("it sends what it is told to send", func(t *testing.T) {
		dir := d.dataDir(t)
		tl := &tool{env: map[string]string{"USAGE_DATA_DIR": t.TempDir()}}
		if code := tl.run(t, "ledger", "--url="+d.URL, "--token-file="+filepath.Join(dir, adminFile)); code != exitOK {
			t.Errorf("exit %d: %s", code, &tl.stderr)
		}
	})
	t.Run("it does not follow a link in a data directory", func(t *testing.T) {
		other, dir := newStranger(t), t.TempDir()
		secret := writeFile(t, filepath.Join(t.TempDir(), "secret"), "secret\n")
		writeFile(t, filepath.Join(dir, urlFile), other.URL+"\n")
		if err := os.Symlink(secret, filepath.Join(dir, adminFile)); err != nil {
			t.Fatal(err)
		}
		tl := &tool{env: map[string]string{"USAGE_DATA_DIR": dir}}
		if code := tl.run(t, "ledger"); code == exitOK || other.got.Load() != "" {
			t.Errorf("exit %d, and the other daemon got %q", code, other.got.Load())
		}
	})
}

// The environment's token does not go to an address that lies about in the current directory.
func TestAnAddressThatWasFoundGetsNoToken(t *testing.T) {
	other := newStranger(t)
	t.Chdir(t.TempDir())
	if err := os.Mkdir("data", 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join("data", urlFile), other.URL+"\n")
	file := writeFile(t, "token", "secret\n")
	for name, value := range map[string]string{"USAGE_TOKEN": "secret", "USAGE_TOKEN_FILE": file} {
		tl := &tool{env: map[string]string{name: value}}
		if code := tl.run(t, "ledger"); code != exitFailure || other.got.Load() != "" || !strings.Contains(tl.stderr.String(), "--data.dir") {
			t.Errorf("%s: exit %d, the other daemon got %q, stderr %q", name, code, other.got.Load(), &tl.stderr)
		}
		if tl.run(t, "ledger", "--data.dir=data"); other.got.Load() != "Bearer secret" {
			t.Errorf("%s: a directory that is named gets no token: %q", name, &tl.stderr)
		}
		other.got.Store("")
	}
}

// A table says where accepted events are not in it yet.
func TestTablesSayWhatIsPending(t *testing.T) {
	for _, args := range [][]string{{"summary"}, {"users"}} {
		d := newFakeDaemon(t)
		tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
		if code := tl.run(t, "send", "--type=a"); code != exitOK {
			t.Fatalf("exit %d: %s", code, &tl.stderr)
		}
		const says = "accepted events are not counted yet"
		d.behind = 1
		if tl.run(t, args...); !strings.Contains(tl.stderr.String(), says) {
			t.Errorf("%v: stderr %q, want %q", args, &tl.stderr, says)
		}
		d.behind = 0
		if tl.run(t, args...); strings.Contains(tl.stderr.String(), says) {
			t.Errorf("%v: stderr %q, and nothing is pending", args, &tl.stderr)
		}
	}
}
