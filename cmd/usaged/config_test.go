package main

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeFile writes a file into a directory of its own and returns its path.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	rewriteFile(t, path, text)
	return path
}

func rewriteFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const badRole = "- name: x\n  role: king\n  sha256: " + zeros + "\n"

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// TestBadStart starts the daemon with something wrong: one line of error that names it, exit code 2 for the command line and
// 1 for everything else, and a data directory that a start with the fault removed can use.
func TestBadStart(t *testing.T) {
	t.Parallel()
	tokens := func(text string) []string {
		return []string{"--auth.tokens-file=" + writeFile(t, "tokens.yml", text)}
	}
	for _, tc := range []struct {
		name  string
		args  []string
		env   []string
		code  int
		words []string
	}{
		{"it refuses an unknown flag", []string{"--nope"}, nil, 2, []string{"--nope", "--help"}},
		{"it refuses an argument", []string{"extra"}, nil, 2, []string{"extra", "--help"}},
		{"it refuses a value that is no number", []string{"--retention.days=x"}, nil, 2, []string{"--retention.days", `"x"`}},
		{"it refuses a part of a day", []string{"--retention.days=1.9"}, nil, 2, []string{"--retention.days", `"1.9"`}},
		{"it refuses a delay without a unit", []string{"--web.drain-delay=5"}, nil, 2, []string{"--web.drain-delay", `"5"`}},
		{"it names all that is wrong on one line", []string{"--retention.days=0", "--web.drain-delay=-1s"}, nil, 2,
			[]string{"--retention.days", "--web.drain-delay"}},
		{"it refuses a retention of no days", []string{"--retention.days=0"}, nil, 2, []string{"--retention.days", "0"}},
		{"it refuses a retention of too many days", []string{"--retention.days=99999"}, nil, 2, []string{"--retention.days", "99999"}},
		{"it refuses a bad value of the environment", nil, []string{"USAGE_RETENTION_DAYS=zz"}, 2, []string{"USAGE_RETENTION_DAYS", `"zz"`}},
		{"it refuses a size without a unit that exists", []string{"--retention.size=10XB"}, nil, 2, []string{"--retention.size", "10XB"}},
		{"it refuses a negative size", []string{"--retention.size=-1GB"}, nil, 2, []string{"--retention.size"}},
		{"it refuses an address without a port", []string{"--web.listen-address=localhost"}, nil, 2, []string{"localhost", "host:port"}},
		{"it refuses a negative delay", []string{"--web.drain-delay=-1s"}, nil, 2, []string{"--web.drain-delay"}},
		{"it refuses an unknown log level", []string{"--log.level=loud"}, nil, 2, []string{"loud"}},
		{"it refuses an empty data directory", []string{"--data.dir="}, nil, 2, []string{"--data.dir"}},
		{"it refuses a file for a data directory", []string{"--data.dir=" + writeFile(t, "file", "")}, nil, 1,
			[]string{"not a directory", "--data.dir"}},
		{"it refuses an unknown role", tokens(badRole), nil, 1, []string{"tokens.yml:2", "role", "producer"}},
		{"it refuses a hash that is none", tokens("- {name: x, role: user, sha256: abc}"), nil, 1, []string{"tokens.yml:1", "sha256"}},
		{"it refuses tokens that are no YAML", tokens("- name: [x"), nil, 1, []string{"tokens.yml"}},
		{"it refuses an unknown key", tokens("- {name: x, role: user, sha256: " + zeros + ", colour: red}"), nil, 1, []string{"colour"}},
		{"it refuses an empty tokens file", tokens(""), nil, 1, []string{"tokens.yml", "no tokens"}},
		{"it refuses a tokens file that is not there", []string{"--auth.tokens-file=/nonexistent/tokens.yml"}, nil, 1,
			[]string{"/nonexistent/tokens.yml"}},
		{"it refuses a TLS file that is not there", []string{"--web.config.file=/nonexistent/web.yml"}, nil, 1,
			[]string{"--web.config.file", "/nonexistent/web.yml"}},
		{"it refuses a TLS file with an error", []string{"--web.config.file=" + writeFile(t, "web.yml", "tls: yes")}, nil, 1,
			[]string{"--web.config.file"}},
		{"it refuses an address that it cannot have", []string{"--web.listen-address=192.0.2.1:1"}, nil, 1,
			[]string{"--web.listen-address", "192.0.2.1:1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			args := append([]string{"--data.dir=" + dir, "--web.listen-address=127.0.0.1:0"}, tc.args...)
			if strings.HasPrefix(strings.Join(tc.args, ""), "--data.dir") {
				args = append(args[1:2], tc.args...)
			}
			if strings.HasPrefix(strings.Join(tc.args, ""), "--web.listen-address") {
				args = append(args[:1:1], tc.args...)
			}
			checkExit(t, runDaemon(t, tc.env, args...), tc.code, tc.words...)
			if entries, err := os.ReadDir(dir); err == nil && !strings.Contains(tc.name, "address that it cannot have") {
				t.Errorf("it left %v", entries)
			}
			d := instanceIn(t, dir)
			d.start()
			d.post(`{"event_type":"a"}`)
			d.settle()
			d.stop()
		})
	}
}

// TestOwnTokensDamaged starts on a data directory whose tokens file has an error.
func TestOwnTokensDamaged(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	d.start()
	d.stop()
	path := filepath.Join(d.dir, "tokens.yml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(good, badRole...), 0o600); err != nil {
		t.Fatal(err)
	}
	checkRefused(t, runDaemon(t, nil, d.args...), path, "role")
	if r := runDaemon(t, nil, append(d.args, "--check-config")...); r.code != 1 || !strings.Contains(r.stderr, path) {
		t.Errorf("--check-config: exit code %d, %q; want 1 and the file", r.code, r.stderr)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	d.post(`{"event_type":"a"}`)
	d.stop()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	web := writeFile(t, "web.yml", "http_server_config: {http2: true}\n")
	for _, tc := range []struct {
		name           string
		args, env      []string
		code           int
		stdout, stderr string
	}{
		{"it prints its help", []string{"--help"}, nil, 0, "$USAGE_RETENTION_DAYS", ""},
		{"it prints its version", []string{"--version"}, nil, 0, "usaged, version", ""},
		{"it checks a good configuration", []string{"--check-config", "--data.dir=" + dir, "--web.config.file=" + web}, nil, 0, "configuration is valid", ""},
		{"it checks the environment", []string{"--check-config"}, []string{"USAGE_RETENTION_DAYS=0"}, 2, "", "--retention.days"},
		{"it lets a flag win", []string{"--check-config", "--retention.days=3"}, []string{"USAGE_RETENTION_DAYS=0"}, 0, "configuration is valid", ""},
		{"it checks files", []string{"--check-config", "--web.config.file=" + web + ".not"}, nil, 1, "", "--web.config.file"},
		{"it names the variable of a bad switch", []string{"--check-config"}, []string{"USAGE_WEB_METRICS_AUTH=maybe"}, 2, "", `USAGE_WEB_METRICS_AUTH: "maybe" is not true or false`},
		{"it checks ports", []string{"--check-config", "--web.listen-address=127.0.0.1:99999"}, nil, 2, "", `"127.0.0.1:99999" is not host:port`},
		{"it checks the URL of Redis", []string{"--check-config", "--redis.url=http://x"}, nil, 1, "", "redis://"},
		{"it checks the password file of Redis", []string{"--check-config", "--redis.url=redis://x", "--redis.password-file=" + web + ".not"}, nil, 1, "", web + ".not"},
		{"it checks tokens", []string{"--check-config", "--auth.tokens-file=" + writeFile(t, "t.yml", badRole)}, nil, 1, "", "t.yml:2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := runDaemon(t, tc.env, tc.args...)
			if r.code != tc.code || !strings.Contains(r.stdout, tc.stdout) || !strings.Contains(r.stderr, tc.stderr) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d, %q, %q", r.code, r.stdout, r.stderr, tc.code, tc.stdout, tc.stderr)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("the data directory was made")
			}
		})
	}
}

// checkRefusedFile expects --check-config to say what is wrong with the file of a flag.
func checkRefusedFile(t *testing.T, flag, want string) {
	t.Helper()
	r := runDaemon(t, cleanEnv(), flag, "--check-config", "--data.dir="+t.TempDir())
	if r.code != 1 || !strings.Contains(r.stderr, want) {
		t.Errorf("--check-config %s: exit code %d, %s; want 1 and %s", flag, r.code, r.stderr, want)
	}
}

// TestFilesAreClosedToOthers starts on a directory that is open to everybody, as one made by hand is.
func TestFilesAreClosedToOthers(t *testing.T) {
	t.Parallel()
	d := newInstance(t)
	if err := os.Chmod(filepath.Dir(d.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d.start()
	d.post(`{"event_type":"a"}`)
	d.settle()
	d.stop()
	files := 0
	err := filepath.WalkDir(d.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == d.dir {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode()&0o007 != 0 && entry.Name() != "usaged.url" {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		files++
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("%d files, %v", files, err)
	}
}

// TestRetentionDays sets the retention in all three ways: the longest window tells it.
func TestRetentionDays(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		args []string
		env  []string
		want int
	}{
		{"it has a default", nil, nil, 30},
		{"it takes the environment", nil, []string{"USAGE_RETENTION_DAYS=5"}, 5},
		{"it prefers the flag", []string{"--retention.days=9"}, []string{"USAGE_RETENTION_DAYS=5"}, 9},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newInstance(t, tc.args...)
			d.env = tc.env
			d.start()
			for days, want := range map[int]int{tc.want: http.StatusOK, tc.want + 1: http.StatusUnprocessableEntity} {
				path := fmt.Sprintf("/api/v1/usage/summary?days=%d", days)
				if a := d.do(http.MethodGet, path, "admin", nil, nil); a.status != want {
					t.Errorf("days=%d: status %d, want %d", days, a.status, want)
				}
			}
			d.stop()
		})
	}
}
