package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	grafanaToken = "glsa_secret_of_grafana"
	sourceToken  = "secret_of_usaged"
)

// fake is as much of Grafana's API as is called, with Grafana's habits: it adds ids and versions, keeps secrets to itself, and
// refuses to overwrite unless asked to.
type fake struct {
	mu         sync.Mutex
	role       string // of the token
	folders    map[string]object
	sources    map[string]object
	secrets    map[string]object
	dashboards map[string]object
	folderOf   map[string]string
	writes     int
}

func newFake(t *testing.T) (f *fake, url string) {
	t.Helper()
	f = &fake{role: "Admin", folders: map[string]object{}, sources: map[string]object{}, secrets: map[string]object{}, dashboards: map[string]object{}, folderOf: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/folders/{uid}", f.read(f.folders))
	mux.HandleFunc("POST /api/folders", func(w http.ResponseWriter, r *http.Request) { f.write(w, r, f.folders) })
	mux.HandleFunc("GET /api/datasources/uid/{uid}", f.read(f.sources))
	mux.HandleFunc("POST /api/datasources", func(w http.ResponseWriter, r *http.Request) { f.write(w, r, f.sources) })
	mux.HandleFunc("PUT /api/datasources/uid/{uid}", func(w http.ResponseWriter, r *http.Request) { f.write(w, r, f.sources) })
	mux.HandleFunc("GET /api/dashboards/uid/{uid}", f.dashboard)
	mux.HandleFunc("POST /api/dashboards/db", f.save)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch {
		case r.Header.Get("Authorization") != "Bearer "+grafanaToken:
			answer(w, http.StatusUnauthorized, object{"message": "Invalid API key"})
		case f.role != "Admin" && strings.HasPrefix(r.URL.Path, "/api/datasources"):
			answer(w, http.StatusForbidden, object{"message": "You'll need additional permissions"})
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return f, server.URL
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // to a test
}

func (f *fake) read(from map[string]object) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if it, found := from[r.PathValue("uid")]; found {
			answer(w, http.StatusOK, it)
			return
		}
		answer(w, http.StatusNotFound, object{"message": "not found"})
	}
}

func (f *fake) write(w http.ResponseWriter, r *http.Request, into map[string]object) {
	var it object
	if err := json.NewDecoder(r.Body).Decode(&it); err != nil {
		answer(w, http.StatusBadRequest, object{"message": err.Error()})
		return
	}
	f.writes++
	name := it["uid"].(string)
	if secret, found := it["secureJsonData"]; found {
		f.secrets[name] = secret.(object)
		delete(it, "secureJsonData")
	}
	it["id"], it["version"] = f.writes, f.writes
	into[name] = it
	answer(w, http.StatusOK, it)
}

func (f *fake) dashboard(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("uid")
	it, found := f.dashboards[name]
	if !found {
		answer(w, http.StatusNotFound, object{"message": "Dashboard not found"})
		return
	}
	answer(w, http.StatusOK, object{"dashboard": it, "meta": object{"folderUid": f.folderOf[name]}})
}

func (f *fake) save(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Dashboard object
		FolderUID string
		Overwrite bool
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		answer(w, http.StatusBadRequest, object{"message": err.Error()})
		return
	}
	name := body.Dashboard["uid"].(string)
	if f.dashboards[name] != nil && !body.Overwrite {
		answer(w, http.StatusPreconditionFailed, object{"message": "version-mismatch"})
		return
	}
	f.writes++
	body.Dashboard["id"], body.Dashboard["version"] = f.writes, f.writes
	f.dashboards[name], f.folderOf[name] = body.Dashboard, body.FolderUID
	answer(w, http.StatusOK, object{"status": "success"})
}

// provision runs the command and returns what it printed, in which no token may be.
func provision(t *testing.T, url string, more ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, token := range map[string]string{"grafana": grafanaToken, "source": sourceToken} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, arg := range more {
		more[i] = strings.ReplaceAll(arg, "DIR", dir)
	}
	var out bytes.Buffer
	err := run(t.Context(), append([]string{"--url=" + url + "/", "--token-file=" + filepath.Join(dir, "grafana")}, more...), &out)
	said := out.String()
	if err != nil {
		said += err.Error()
	}
	for _, token := range []string{grafanaToken, sourceToken} {
		if strings.Contains(said, token) {
			t.Errorf("a token is printed: %s", said)
		}
	}
	return out.String(), err
}

// became counts what the command says.
func became(said string) map[string]int {
	n := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+) +(folder|data source|dashboard)`).FindAllStringSubmatch(said, -1) {
		n[m[1]+" "+m[2]]++
	}
	return n
}

var withSource = []string{"--source-url=http://usaged:8080/prometheus", "--source-token-file=DIR/source"}

func expect(t *testing.T, what, said string, err error, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(want, became(said)); diff != "" || err != nil {
		t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
	}
}

// TestProvision fills an empty Grafana, finds it as it should be, and repairs what was changed in it.
func TestProvision(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	said, err := provision(t, url, withSource...)
	expect(t, "an empty Grafana", said, err, map[string]int{"created folder": 1, "created data source": 1, "created dashboard": 7})
	if got := f.secrets["usaged"]["httpHeaderValue1"]; got != "Bearer "+sourceToken {
		t.Errorf("the data source sends %v", got)
	}
	for name, folder := range f.folderOf {
		if folder != "usaged" {
			t.Errorf("%s is in %q", name, folder)
		}
	}
	writes := f.writes
	said, err = provision(t, url, withSource...)
	expect(t, "again", said, err, map[string]int{"unchanged folder": 1, "unchanged data source": 1, "unchanged dashboard": 7})
	if f.writes != writes {
		t.Errorf("%d writes for nothing", f.writes-writes)
	}
	f.dashboards["usaged-llm"]["panels"] = []any{}
	f.dashboards["usaged-nl2sql"]["liveNow"] = true // which is not shipped
	f.folderOf["usaged-executive"] = "elsewhere"
	f.sources["usaged"]["url"] = "http://elsewhere"
	said, err = provision(t, url, withSource...)
	expect(t, "changed", said, err, map[string]int{
		"unchanged folder": 1, "updated data source": 1, "updated dashboard": 3, "unchanged dashboard": 4,
	})
	f.sources["usaged"]["jsonData"].(object)["usagedTokenDigest"] = "of another"
	said, err = provision(t, url, withSource...)
	expect(t, "another token", said, err, map[string]int{"unchanged folder": 1, "updated data source": 1, "unchanged dashboard": 7})
}

// TestProvisionAsEditor has no right to data sources, and needs none where the user has one.
func TestProvisionAsEditor(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	f.role = "Editor"
	said, err := provision(t, url)
	expect(t, "without a data source", said, err, map[string]int{"created folder": 1, "created dashboard": 7})
	if _, err = provision(t, url, withSource...); err == nil || !strings.Contains(err.Error(), "Admin for data sources") {
		t.Errorf("with a data source: %v", err)
	}
}

func TestProvisionSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	t.Cleanup(html.Close)
	moved := httptest.NewServer(http.RedirectHandler("https://x/", http.StatusMovedPermanently))
	t.Cleanup(moved.Close)
	nothing := httptest.NewServer(http.NotFoundHandler())
	defer nothing.Close()
	_, url := newFake(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		url, want string
		args      []string
	}{
		{html.URL, "is it the address of Grafana", nil},
		{nothing.URL, "404 \"\": is it the address of Grafana", nil},
		{moved.URL, "redirects", nil},
		{"http://127.0.0.1:1", "reach Grafana", nil},
		{url, "is empty", []string{"--source-url=x", "--source-token-file=" + empty}},
		{url, "goes with --source-url", []string{"--source-token-file=" + empty}},
	} {
		if _, err := provision(t, test.url, test.args...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %v: %v, want %s", test.url, test.args, err, test.want)
		}
	}
	err := run(t.Context(), []string{"--url=" + url, "--token-file=grafana_test.go"}, &bytes.Buffer{})
	if err == nil || strings.Contains(err.Error(), "package main") {
		t.Errorf("a file that is no token: %v", err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), []string{"--url=" + url, "--token-file=" + wrong}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "make a new token") {
		t.Errorf("a wrong token: %v", err)
	}
}
