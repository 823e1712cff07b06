package main

import (
	"encoding/json"
	"flag"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSend(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, stdin string
		args        []string
		code        int
		stdout      string
		stderr      string
		events      int
	}{
		{name: "it sends an event of flags", args: []string{"--type=a", "--user=ann", "--id=1", "--meta=rows=3", "--meta=x=y=z",
			"--created-at=2026-11-23T10:00:00Z"}, stdout: "accepted a 1\n", events: 1},
		{name: "it sends an event from stdin", stdin: `{"event_type":"a","id":"1"}`, args: []string{"-"}, stdout: "accepted a 1\n", events: 1},
		{name: "it sends lines from stdin", stdin: "{\"event_type\":\"a\"}\n{\"event_type\":\"b\"}\n", args: []string{"-"},
			stdout: "accepted 2 events\n", events: 2},
		{name: "it sends an array from stdin", stdin: `[{"event_type":"a"},{"event_type":"b"}]`, args: []string{"-"},
			stdout: "accepted 2 events\n", events: 2},
		{name: "it sends nothing where one event is bad", stdin: `[{"event_type":"a"},{"event_type":""}]`, args: []string{"-"}, code: exitFailure,
			stderr: "event 2/event_type"},
		{name: "it names an unknown field", stdin: "{\"event_type\":\"a\"}\n{\"type\":\"b\"}", args: []string{"-"}, code: exitFailure, stderr: "event 2/type: "},
		{name: "it wants a type", code: exitUsage, stderr: "--type"},
		{name: "it wants flags or stdin", args: []string{"-", "--type=a"}, code: exitUsage, stderr: "not both"},
		{name: "it passes on what the daemon says", args: []string{"--type=a", "--created-at=yesterday"}, code: exitFailure, stderr: "event 1/created_at: "},
		{name: "it sends numbers as they are", stdin: `{"event_type":"a","metadata":{"n":1}}`, args: []string{"-"}, code: exitFailure,
			stderr: "event 1/metadata/n: "},
		{name: "it doesn't leave out an empty user", args: []string{"--type=a", "--user="}, code: exitFailure, stderr: "event 1/user_id: "},
		{name: "it sends no other type than it was told", args: []string{"--type="}, code: exitFailure, stderr: "event 1/event_type: "},
		{name: "it doesn't choose among two values", args: []string{"--type=a", "--meta=k=1", "--meta=k=2"}, code: exitUsage,
			stderr: `--meta: the key "k" is given twice`},
		{name: "it wants a value", args: []string{"--type=a", "--meta=k:v"}, code: exitUsage, stderr: `--meta: "k:v" is not KEY=VALUE`},
		{name: "it names the flag of a wrong value", args: []string{"--type=a", "--meta=k=1", "--retry-for=soon"}, code: exitUsage,
			stderr: "--retry-for: time: invalid duration"},
		{name: "it takes no files", args: []string{"events.json"}, code: exitUsage, stderr: "import"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newFakeDaemon(t)
			tl := &tool{stdin: tc.stdin, env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
			if code := tl.run(t, append([]string{"send"}, tc.args...)...); code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			if tl.stdout.String() != tc.stdout || !strings.Contains(tl.stderr.String(), tc.stderr) {
				t.Errorf("stdout %q, want %q; stderr %q, want %q in it", &tl.stdout, tc.stdout, &tl.stderr, tc.stderr)
			}
			if n := len(d.events()); n != tc.events {
				t.Errorf("accepted %d, want %d", n, tc.events)
			}
		})
	}
}

func TestSendSplitsMetadataAtTheFirstEqualsSign(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
	if code := tl.run(t, "send", "--type=a", "--meta=question=is a=b: or not", "--meta=db:host=x", "--meta=empty="); code != exitOK {
		t.Fatalf("exit %d: %s", code, &tl.stderr)
	}
	want := map[string]string{"question": "is a=b: or not", "db:host": "x", "empty": ""}
	if got := d.events()[0].Metadata; !maps.Equal(got, want) {
		t.Errorf("metadata %q, want %q", got, want)
	}
}

func TestNumbersOfFlagsAreNumbers(t *testing.T) {
	t.Parallel()
	for flag, says := range map[string]string{
		"--days=week": `--days: "week" is not a number of days;`, "--days=0": `--days: "0" is not a number of days;`, "--top=all": `--top: "all" is not a number;`,
	} {
		tl := &tool{}
		if code := tl.run(t, "summary", flag); code != exitUsage || !strings.Contains(tl.stderr.String(), says) {
			t.Errorf("%s: exit %d, %s", flag, code, &tl.stderr)
		}
	}
}

// TestDaysAreTheDaemonsToChoose asks a daemon that keeps fewer days than our default, as a script that names none does.
func TestDaysAreTheDaemonsToChoose(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	d.retention = 5
	tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
	for _, command := range []string{"summary", "users"} {
		for days, want := range map[string]int{"": exitOK, "--days=5": exitOK, "--days=6": exitFailure} {
			args := []string{command}
			if days != "" {
				args = append(args, days)
			}
			if code := tl.run(t, args...); code != want {
				t.Errorf("%q: exit %d, want %d: %s", args, code, want, &tl.stderr)
			}
		}
	}
}

// TestSendWaits holds that --wait returns when nothing is pending that was accepted before, and not earlier.
func TestSendWaits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, output string
		args         []string
		looks        int // at the ledger, of the three that the daemon needs
	}{
		{"it waits where asked to", "accepted and counted a 1\n", []string{"--wait"}, 3},
		{"it says so in JSON", `"counted": true`, []string{"--wait", "--output=json"}, 3},
		{"it doesn't wait", "accepted a 1\n", nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newFakeDaemon(t)
			d.behind = 3
			tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
			if code := tl.run(t, append([]string{"send", "--type=a", "--id=1"}, tc.args...)...); code != exitOK {
				t.Errorf("exit %d, want 0", code)
			}
			if !strings.Contains(tl.stdout.String(), tc.output) || 3-d.behind != tc.looks {
				t.Errorf("stdout %q, want %q; %d looks at the ledger, want %d", &tl.stdout, tc.output, 3-d.behind, tc.looks)
			}
		})
	}
	d := newFakeDaemon(t)
	tl := &tool{env: map[string]string{"USAGE_URL": d.URL, "USAGE_TOKEN": fakeProducer}}
	if code := tl.run(t, "send", "--type=a", "--wait"); code != exitOK || len(d.events()) != 1 {
		t.Errorf("exit %d, %d events; want 0, since the event is accepted, and 1", code, len(d.events()))
	}
	if want := "the events are accepted, and to wait for their count the ledger is needed"; !strings.Contains(tl.stderr.String(), want) {
		t.Errorf("stderr %q, want %q", &tl.stderr, want)
	}
}

// TestTokenWithoutReload holds that nobody takes a revoked token for harmless, nor loses a new one, while the daemon
// cannot reload.
func TestTokenWithoutReload(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	d.broken = "meters.yml:3: what is this"
	dir := d.dataDir(t)
	path := writeFile(t, filepath.Join(dir, "tokens.yml"), "- {name: a, role: admin, sha256: "+strings.Repeat("ab", 32)+"}\n")
	tl := &tool{env: map[string]string{"USAGE_DATA_DIR": dir}}
	const why = "the daemon could not reload: 500 Internal Server Error: meters.yml:3: what is this; correct that, then kill -HUP it"
	if code := tl.run(t, "token", "new", "--name=b", "--role=user"); code != exitOK {
		t.Errorf("exit %d, want 0", code)
	}
	if !strings.HasPrefix(tl.stdout.String(), "usaged_user_") || !strings.Contains(tl.stderr.String(), "made user token b; "+why) {
		t.Errorf("stdout %q, stderr %q", &tl.stdout, &tl.stderr)
	}
	for _, args := range [][]string{{"token", "revoke", "b"}, {"token", "new", "--name=b", "--role=user"}, {"token", "revoke", "b", "--output=json"}} {
		want := exitFailure
		if args[1] == "new" {
			want = exitOK
		}
		if code := tl.run(t, args...); code != want {
			t.Errorf("%v: exit %d, want %d", args, code, want)
		}
	}
	if !strings.Contains(tl.stdout.String(), `"reloaded": false`) {
		t.Errorf("stdout %q", &tl.stdout)
	}
	if code := tl.run(t, "token", "new", "--name=b", "--role=user", "--to-file="+filepath.Join(dir, "none", "b.token")); code != exitFailure {
		t.Errorf("no directory for the token: exit %d, want 1", code)
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(data), "name: b") {
		t.Errorf("%s, %v: want nothing of a token that nobody has", data, err)
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
	tl.stdin = `{"event_type":"sql_execution","user_id":"ann","id":"1"}` + "\n" + `{"event_type":"sql_execution","user_id":"ann","id":"1"}` + "\n" +
		strings.Repeat(`{"event_type":"dashboard_publish","user_id":"Zoë 東京"}`+"\n", 1200)
	if code := tl.run(t, "send", "-"); code != exitOK {
		t.Fatalf("exit %d, want 0", code)
	}
	for _, tc := range []struct {
		golden string
		args   []string
	}{
		{"summary.txt", []string{"summary"}},
		{"summary.json", []string{"summary", "--output=json"}},
		{"top.txt", []string{"top"}},
		{"top.json", []string{"top", "-o", "json"}},
		{"top_meter.txt", []string{"top", "--meter=users", "--days=30"}},
		{"ledger.txt", []string{"ledger"}},
		{"ledger.json", []string{"ledger", "--output=json"}},
	} {
		if code := tl.run(t, tc.args...); code != exitOK {
			t.Errorf("%v: exit %d, want 0", tc.args, code)
		}
		golden(t, tc.golden, tl.stdout.Bytes())
	}
}

var update = flag.Bool("update", false, "rewrite the files under testdata/golden")

// golden compares with a file under testdata/golden.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
	}
}

func TestLedgerOutOfBalance(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	d.skew = 1
	tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
	for _, output := range []string{"--output=table", "--output=json"} {
		if code := tl.run(t, "ledger", output); code != exitFailure {
			t.Errorf("%s: exit %d, want 1", output, code)
		}
		if !strings.Contains(tl.stderr.String(), "does not balance: 1 accepted, but 0 counted") {
			t.Errorf("%s: stderr %q", output, &tl.stderr)
		}
	}
}

func TestBench(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		args   []string
		events int
		ids    bool
	}{
		{"it sends batches", []string{"--batch=10", "--events=195", "--connections=3", "--wait"}, 200, false},
		{"it sends single events with ids", []string{"--batch=1", "--events=150", "--connections=2", "--ids"}, 150, true},
		{"it paces", []string{"--batch=5", "--events=50", "--rate=100000", "--days=7", "--users=3", "--types=9"}, 50, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newFakeDaemon(t)
			tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
			if code := tl.run(t, append([]string{"bench", "--output=json"}, tc.args...)...); code != exitOK {
				t.Fatalf("exit %d, want 0", code)
			}
			var r postReport
			if err := json.Unmarshal(tl.stdout.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			if int(r.Events) != tc.events || len(d.events()) != tc.events || r.Latency.Max <= 0 || r.Daemon == nil || r.Daemon.RSSBytes != 5e7 {
				t.Errorf("report %+v, daemon %d events; want %d", r, len(d.events()), tc.events)
			}
			for _, e := range d.events() {
				if e.ClientID != tc.ids {
					t.Fatalf("event %+v: id of the client's is %v, want %v", e, e.ClientID, tc.ids)
				}
			}
			if tc.ids && len(d.counted) != tc.events {
				t.Errorf("%d different ids, want %d", len(d.counted), tc.events)
			}
		})
	}
}

func TestBenchReportsErrors(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
	d.faults = func(request int) (int, string) {
		if request%2 == 0 {
			return 503, "1"
		}
		return 0, ""
	}
	if code := tl.run(t, "bench", "--batch=1", "--events=20", "--connections=1"); code != exitFailure {
		t.Errorf("exit %d, want 1", code)
	}
	if !strings.Contains(tl.stdout.String(), "errors, status 503") || !strings.Contains(tl.stderr.String(), "10 of the requests failed") {
		t.Errorf("stdout %q, stderr %q", &tl.stdout, &tl.stderr)
	}
}

func TestBenchSummary(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
	for _, args := range [][]string{{"--requests=3"}, {"--requests=3", "--meter=users"}} {
		if code := tl.run(t, append([]string{"bench", "summary"}, args...)...); code != exitOK {
			t.Errorf("%q: exit %d, want 0", args, code)
		}
		for _, want := range []string{"first request", "warm, ms", "304, ms"} {
			if !strings.Contains(tl.stdout.String(), want) {
				t.Errorf("%q: stdout %q, want %q", args, &tl.stdout, want)
			}
		}
	}
}

// untrusted is a server with a certificate of an authority that nobody knows.
func untrusted(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(t.Output(), "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestConnection(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	data := d.dataDir(t)
	bare := t.TempDir()
	token := writeFile(t, filepath.Join(bare, "my.token"), fakeAdmin+"\n")
	twoLines := writeFile(t, filepath.Join(bare, "two.token"), "a\nb\n")
	unknown := untrusted(t)
	for _, tc := range []struct {
		name string
		env  map[string]string
		args []string
		code int
		says string
	}{
		{"it finds address and token in the data directory", nil, []string{"--data.dir", data}, exitOK, ""},
		{"it takes both from the environment", map[string]string{"USAGE_URL": d.URL, "USAGE_TOKEN": fakeAdmin}, nil, exitOK, ""},
		{"it takes a file from the environment", map[string]string{"USAGE_URL": d.URL, "USAGE_TOKEN_FILE": token}, nil, exitOK, ""},
		{"it prefers the flag", map[string]string{"USAGE_URL": "http://nowhere.invalid", "USAGE_TOKEN": "x"},
			[]string{"--url", d.URL, "--token-file", token}, exitOK, ""},
		{"it keeps a path in the address", nil, []string{"--url", d.URL + "/", "--token-file", token}, exitOK, ""},
		{"it misses a token", nil, []string{"--url", d.URL}, exitFailure, "there is none in " + bare},
		{"it names a token file that is not there", nil, []string{"--url", d.URL, "--token-file", "nowhere"}, exitFailure, "nowhere"},
		{"it wants one line in a token file", nil, []string{"--url", d.URL, "--token-file", twoLines}, exitFailure, "one line"},
		{"it says how to start a daemon", nil, []string{"--url", "http://127.0.0.1:1"}, exitFailure,
			"no daemon answers at http://127.0.0.1:1 (--url): dial tcp 127.0.0.1:1: connect: connection refused; start it with `make run` or name another with --url"},
		{"it says how to trust a daemon", nil, []string{"--url", unknown.URL}, exitFailure, "the certificate of " + unknown.URL +
			" (--url) is not trusted: x509: certificate signed by unknown authority; name the file of its authority's certificate in SSL_CERT_FILE"},
		{"it refuses a password in the address", nil, []string{"--url", "http://u:hunter2@x"}, exitFailure, "must have no user"},
		{"it refuses what is no address", nil, []string{"--url", "localhost:8080"}, exitFailure, "--url: the server's URL must look like"},
		{"it knows something else by its answers", nil, []string{"--url", d.URL + "/other", "--token-file", token}, exitFailure, "may not be usaged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"USAGE_DATA_DIR": bare}
			for name, value := range tc.env {
				env[name] = value
			}
			tl := &tool{env: env}
			if code := tl.run(t, append([]string{"ledger"}, tc.args...)...); code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			text := tl.stderr.String()
			if !strings.Contains(text, tc.says) || strings.Contains(text, "hunter2") || strings.Contains(text, fakeAdmin) {
				t.Errorf("stderr %q, want %q", text, tc.says)
			}
		})
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	tb := newTable("NAME", ">N", "NOTE")
	tb.add("東京", "1,000", "x")
	tb.add("a\x1b[2Jb\nc", "1", "")
	var out strings.Builder
	if err := tb.write(&out); err != nil {
		t.Fatal(err)
	}
	const want = "NAME          N  NOTE\n東京      1,000  x\na\uFFFD[2Jb\uFFFDc      1\n"
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", &out, want)
	}
	for width, want := range map[int]string{
		20: "N  KEY\n1  東京 is the capi…\n", 13: "N  KEY\n1  東京 is t…\n", 12: "N  KEY\n1  東京 is …\n", 2: "N  KEY\n1  東京 is…\n",
	} {
		tb := newTable(">N", "KEY")
		tb.add("1", "東京 is the capital")
		tb.width = width
		var out strings.Builder
		if err := tb.write(&out); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("at %d columns:\n%swant:\n%s", width, &out, want)
		}
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %s, want %s", n, got, want)
		}
	}
}
