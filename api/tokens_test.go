package api_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"usaged/api"
	"usaged/api/auth"
)

func TestLoadTokensNamesFaults(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 32)
	good := "- name: a\n  role: admin\n  sha256: " + hash + "\n"
	for name, c := range map[string]struct{ file, want string }{
		"an empty file":           {"", "holds no tokens"},
		"comments alone":          {"# none\n", "holds no tokens"},
		"an empty list":           {"[]\n", ":1: holds no tokens"},
		"null":                    {"null\n", ":1: must be a list of tokens"},
		"a mapping":               {"tokens: []\n", ":1: must be a list of tokens, each with the keys name, role, sha256, user_id"},
		"broken YAML":             {"- name: [\n", ":1: did not find expected node content"},
		"two documents":           {good + "---\n" + good, "has more than one document"},
		"a scalar entry":          {good + "- b\n", ":4: entry 2: must have the keys name, role, sha256, user_id"},
		"an unknown key":          {good + "- nam: b\n", `:4: entry 2: unknown key "nam": the keys are`},
		"a repeated key":          {"- name: b\n  name: c\n", ":2: entry 1: the key name stands twice"},
		"a list for a value":      {"- name: [b]\n", ":1: entry 1: name must be text"},
		"no value":                {"- name:\n", ":1: entry 1: name must be text"},
		"an alias":                {"- name: &n b\n  role: *n\n", ":2: entry 1: role must be text"},
		"two wrong entries":       {"- name: b\n- name: c\n", ":2: entry 2 (\"c\"): role is missing"},
		"no name":                 {"- role: admin\n  sha256: " + hash + "\n", ":1: entry 1: name is missing"},
		"no role":                 {good + "- name: b\n  sha256: " + hash + "\n", `:4: entry 2 ("b"): role is missing`},
		"no hash":                 {"- name: b\n  role: user\n", `:1: entry 1 ("b"): sha256 is missing`},
		"a role that is not one":  {"- name: b\n  role: root\n  sha256: " + hash, `:2: entry 1 ("b"): role must be one of user, producer, viewer, reader, auditor, operator, admin`},
		"a hash that is too long": {"- name: b\n  role: user\n  sha256: " + hash + "ab", `:3: entry 1 ("b"): sha256 must be the SHA-256 of the token: 64 hex digits`},
		"a token for a hash":      {"- name: b\n  role: user\n  sha256: usaged_user_x", ":3: entry 1 (\"b\"): sha256 must be"},
		"a repeated name":         {good + "- name: a\n  role: user\n  sha256: " + strings.Repeat("cd", 32), `:4: entry 2 ("a"): entry 1 has this name already`},
		"a repeated hash":         {good + "- name: b\n  role: user\n  sha256: " + strings.ToUpper(hash), `:6: entry 2 ("b"): entry 1 has this sha256 already`},
		"an empty name":           {"- name: \"\"\n  role: user\n  sha256: " + hash, ":1: entry 1: name must be 1 to 128 bytes of text"},
		"a name that is too long": {"- name: " + strings.Repeat("n", 129) + "\n  role: user\n  sha256: " + hash, "name must be 1 to 128 bytes"},
		"a control character":     {"- name: b\n  user_id: \"\\e\"\n  role: user\n  sha256: " + hash, `:2: entry 1 ("b"): user_id must be 1 to 256 bytes of text`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "tokens.yml")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := auth.LoadTokens(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want %q and the path", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "usaged_user_x") {
				t.Errorf("the error shows a token: %v", err)
			}
		})
	}
	if _, err := auth.LoadTokens(filepath.Join(t.TempDir(), "none.yml")); err == nil {
		t.Error("a file that doesn't exist was loaded")
	}
}

// TestReload revokes a token, then breaks the file.
func TestReload(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tokens.yml")
	writeTokens(t, path)
	tokens, err := auth.LoadTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *api.Config) { c.Tokens = tokens })
	entry := fmt.Sprintf("- name: boss\n  role: admin\n  sha256: %x\n", sha256.Sum256([]byte(tokenOf("admin"))))
	for _, step := range []struct {
		file             string
		reload, producer int
	}{
		{entry, http.StatusOK, http.StatusUnauthorized},
		{"- nonsense", http.StatusInternalServerError, http.StatusUnauthorized},
		{entry + fmt.Sprintf("- name: p\n  role: producer\n  sha256: %x\n", sha256.Sum256([]byte(tokenOf("producer")))),
			http.StatusOK, http.StatusAccepted},
	} {
		if err := os.WriteFile(path, []byte(step.file), 0o600); err != nil {
			t.Fatal(err)
		}
		if rec := r.call("POST", "/-/reload", "admin", ""); rec.Code != step.reload {
			t.Errorf("reload of %q: status %d, want %d: %s", step.file, rec.Code, step.reload, rec.Body)
		}
		if rec := r.call("POST", events, "producer", one); rec.Code != step.producer {
			t.Errorf("after %q: status %d, want %d", step.file, rec.Code, step.producer)
		}
	}
}

// TestReloadWhilePosting swaps the tokens under load.
func TestReloadWhilePosting(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if rec := r.call("POST", events, "producer", one); rec.Code != http.StatusAccepted {
					t.Errorf("status %d", rec.Code)
				}
			}
		})
	}
	for range 50 {
		if rec := r.call("POST", "/-/reload", "admin", ""); rec.Code != http.StatusOK {
			t.Errorf("reload: status %d", rec.Code)
		}
	}
	wg.Wait()
}

func TestGenerateTokens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// What a killed first start leaves behind.
	if err := os.WriteFile(filepath.Join(dir, "admin.token"), []byte("stale"), 0o644); err != nil {
		t.Fatal(err)
	}
	if made, err := auth.GenerateTokens(dir); err != nil || !made {
		t.Fatalf("made %v, error %v", made, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, error %v", e.Name(), info.Mode(), err)
		}
	}
	if want := []string{"admin.token", "producer.token", "tokens.yml", "user.token", "viewer.token"}; !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
	tokens, err := auth.LoadTokens(filepath.Join(dir, auth.TokensFile))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *api.Config) { c.Tokens = tokens; c.MetricsAuth = true })
	list, err := os.ReadFile(filepath.Join(dir, auth.TokensFile))
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[string]string{"admin": "202 200 200", "producer": "202 403 403", "viewer": "403 403 200", "user": "202 403 403"} {
		token := strings.TrimSuffix(readFile(t, filepath.Join(dir, role+".token")), "\n")
		if !regexp.MustCompile("^usaged_" + role + "_[a-z2-7]{40}$").MatchString(token) {
			t.Errorf("the token of role %s is %q", role, token)
		}
		if strings.Contains(string(list), token) {
			t.Error("tokens.yml holds a token")
		}
		auth := []string{"Authorization", "bearer  " + token}
		got := fmt.Sprint(r.call("POST", events, "", one, auth...).Code, " ",
			r.call("GET", "/api/v1/usage/users", "", "", auth...).Code, " ", r.call("GET", "/metrics", "", "", auth...).Code)
		if got != want {
			t.Errorf("role %s: statuses %s, want %s", role, got, want)
		}
	}
	if made, err := auth.GenerateTokens(dir); err != nil || made {
		t.Errorf("again: made %v, error %v", made, err)
	}
	if again := readFile(t, filepath.Join(dir, auth.TokensFile)); again != string(list) {
		t.Error("tokens.yml was written again")
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestGenerateTokensLeavesNoList fails at each file and looks for a tokens file, which would end the first start.
func TestGenerateTokensLeavesNoList(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"admin.token", "producer.token", "viewer.token", "user.token"} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, name, "in the way"), 0o700); err != nil {
			t.Fatal(err)
		}
		if made, err := auth.GenerateTokens(dir); err == nil || made || !strings.Contains(err.Error(), "token") {
			t.Errorf("%s cannot be written: made %v, error %v", name, made, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, auth.TokensFile)); err == nil {
			t.Errorf("%s cannot be written, and tokens.yml exists", name)
		}
		if left, err := fs.Glob(os.DirFS(dir), ".*"); err != nil || len(left) > 0 {
			t.Errorf("%q is left, error %v", left, err)
		}
	}
}
