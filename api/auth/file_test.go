package auth_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"usaged/api/auth"
)

const (
	hashA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hashB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	hashC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

func tokensFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens.yml")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func fileText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestAddToken holds that a token is known after a reload, and that nothing else in the file is changed.
func TestAddToken(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{
		"it appends to a plain list":      "# who\n- name: a # first\n  role: admin\n  sha256: " + hashA + "\n",
		"it adds what ends the last line": "- {name: a, role: admin, sha256: " + hashA + "}",
		"it keeps the indentation":        "  # who\n  - name: a\n    role: admin\n    sha256: " + hashA + "\n\n  # the end\n",
		"it keeps a dash on its own":      "-\n  name: a\n  role: admin\n  sha256: " + hashA + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := tokensFile(t, before, 0o640)
			plain, err := auth.AddToken(path, auth.Token{Name: "no: comment", Role: auth.RoleProducer, UserID: "true"})
			if err != nil {
				t.Fatal(err)
			}
			after := fileText(t, path)
			if !strings.HasPrefix(after, before) || strings.Contains(after, plain) {
				t.Errorf("the file is\n%s\nwant what it was with an entry behind it, and no plaintext", after)
			}
			entries, err := auth.ListTokens(path)
			if err != nil || len(entries) != 2 {
				t.Fatalf("%d entries, %v; want 2", len(entries), err)
			}
			want := auth.Token{Name: "no: comment", Role: auth.RoleProducer, UserID: "true"}
			if got := entries[1]; got.Token != want || !got.Is(plain) || got.Is(plain+"x") {
				t.Errorf("entry %+v, want %+v with the digest of the token", got, want)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v; want 0640", info.Mode(), err)
			}
		})
	}
}

func TestAddTokenRefuses(t *testing.T) {
	t.Parallel()
	list := "- name: a\n  role: admin\n  sha256: " + hashA + "\n"
	for _, tc := range []struct {
		name, before string
		token        auth.Token
		says         string
	}{
		{"a name that is taken", list, auth.Token{Name: "a"}, `entry 1 has the name "a" already`},
		{"no name", list, auth.Token{}, "nothing was changed"},
		{"a name with a line end", list, auth.Token{Name: "a\nb"}, "nothing was changed"},
		{"a long user", list, auth.Token{Name: "b", UserID: strings.Repeat("u", 300)}, "user_id must be 1 to 256 bytes"},
		{"a file that is wrong", "- name: a\n", auth.Token{Name: "b"}, "tokens.yml:1: entry 1 (\"a\"): role is missing"},
		{"a list in brackets", "[{name: a, role: admin, sha256: " + hashA + "}]\n", auth.Token{Name: "b"}, "written with brackets"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := tokensFile(t, tc.before, 0o600)
			if _, err := auth.AddToken(path, tc.token); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
			if got := fileText(t, path); got != tc.before {
				t.Errorf("the file became %q", got)
			}
		})
	}
	if _, err := auth.AddToken(filepath.Join(t.TempDir(), "none.yml"), auth.Token{Name: "b"}); err == nil || !strings.Contains(err.Error(), "first start") {
		t.Errorf("no file: %v", err)
	}
}

const three = `# All of them.
- name: a
  role: admin
  sha256: ` + hashA + `   # handed to Ann

# B is for billing.
- role: producer
  sha256: ` + hashB + `
  user_id: acme
  name: b
# C may look.
- {name: c, role: viewer, sha256: ` + hashC + `}
# The end.
`

func TestRevokeToken(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		force bool
		want  string // without
		says  string
	}{
		{"a", true, "- name: a\n  role: admin\n  sha256: " + hashA + "   # handed to Ann\n", ""},
		{"b", false, "- role: producer\n  sha256: " + hashB + "\n  user_id: acme\n  name: b\n", ""},
		{"c", false, "- {name: c, role: viewer, sha256: " + hashC + "}\n", ""},
		{"a", false, "", "it is the last token with the role admin"},
		{"d", false, "", `no token has the name "d"`},
	} {
		t.Run(fmt.Sprint(tc.name, tc.force), func(t *testing.T) {
			t.Parallel()
			path := tokensFile(t, three, 0o600)
			revoked, err := auth.RevokeToken(path, tc.name, tc.force)
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) || errors.Is(err, auth.ErrLastAdmin) != (tc.name == "a") {
					t.Errorf("%v, want %q", err, tc.says)
				}
			} else if err != nil || revoked.Name != tc.name {
				t.Errorf("%+v, %v", revoked, err)
			}
			if diff := cmp.Diff(strings.Replace(three, tc.want, "", 1), fileText(t, path)); diff != "" {
				t.Errorf("the file, want (-), got (+):\n%s", diff)
			}
		})
	}
	path := tokensFile(t, "- {name: a, role: admin, sha256: "+hashA+"}\n", 0o600)
	if _, err := auth.RevokeToken(path, "a", true); err == nil || !strings.Contains(err.Error(), "make another first") {
		t.Errorf("the last token of all: %v", err)
	}
}

// TestTokensFileBehindLink holds that the file is replaced, not the link to it.
func TestTokensFileBehindLink(t *testing.T) {
	t.Parallel()
	path := tokensFile(t, three, 0o600)
	link := filepath.Join(t.TempDir(), "link.yml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.AddToken(link, auth.Token{Name: "d"}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(link); err != nil || got != path || !strings.Contains(fileText(t, path), "name: d") {
		t.Errorf("link to %q, %v", got, err)
	}
}

// TestTokensFileKeepsItsOwner holds that a daemon which is not root can read what root has edited.
func TestTokensFileKeepsItsOwner(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("only root can give a file away")
		}
		t.Skip("only root can give a file away")
	}
	path := tokensFile(t, three, 0o600)
	if err := os.Chown(path, 12345, 12346); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.AddToken(path, auth.Token{Name: "d"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); stat.Uid != 12345 || stat.Gid != 12346 || info.Mode().Perm() != 0o600 {
		t.Errorf("owner %d:%d, mode %v; want 12345:12346 and 0600", stat.Uid, stat.Gid, info.Mode())
	}
}

// TestTokensFileIsLocked edits a file from many sides at once. None is lost.
func TestTokensFileIsLocked(t *testing.T) {
	t.Parallel()
	path := tokensFile(t, three, 0o600)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			name := fmt.Sprintf("extra-%d", i)
			if _, err := auth.AddToken(path, auth.Token{Name: name}); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if _, err := auth.RevokeToken(path, name, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	entries, err := auth.ListTokens(path)
	if err != nil || len(entries) != 3+8 {
		t.Errorf("%d entries, %v; want 11", len(entries), err)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("files %v, %v; want tokens.yml alone", files, err)
	}
}

func TestExposed(t *testing.T) {
	t.Parallel()
	for mode, says := range map[os.FileMode]string{0o600: "", 0o640: "", 0o660: "", 0o644: "may read it", 0o666: "may write it", 0o602: "may write it"} {
		got := auth.Exposed(tokensFile(t, three, mode))
		if says == "" && got != "" || !strings.Contains(got, says) {
			t.Errorf("mode %04o: %q, want %q", mode, got, says)
		}
	}
}
