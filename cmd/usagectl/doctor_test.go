package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usaged/aggregator/datadir"
	"usaged/aggregator/event"
	"usaged/aggregator/journal"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// counted makes a producer that has counted n events of today, each of its own user, in a new Redis.
func counted(t testing.TB, url, producer string, n int) {
	t.Helper()
	st, err := redis.Open(t.Context(), redis.Config{URL: url, Partitions: 1, Retention: 30})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	cells := meter.Cells{}
	for i := range n {
		cells[fmt.Sprintf("user-%d", i)] = 1
	}
	now := time.Now()
	out, err := st.Apply(t.Context(), &store.Batch{
		Producer: producer, Session: 1, Last: uint64(n),
		Days: map[event.Day]*meter.DayDelta{event.DayOf(now): {
			Types: map[string]uint64{"a": uint64(n)}, Rollups: map[meter.Rollup]meter.Cells{meter.TypeRollup("a"): cells},
		}},
		Totals: meter.Totals{{Family: meter.FamilyEvents, A: "a"}: uint64(n)},
		Claims: []store.Claim{{Digest: [16]byte{1}, AcceptedMillis: now.UnixMilli()}},
	})
	if err != nil || !out.Applied {
		t.Fatalf("Apply = %+v, %v", out, err)
	}
}

// usedDataDir is a data directory with a journal of n events, which counts as producer p1.
func usedDataDir(t testing.TB, n int, identity string) string {
	t.Helper()
	dir := t.TempDir()
	j, err := journal.Open(journal.Config{Dir: filepath.Join(dir, datadir.Journal)})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := j.Append(journal.Batch{N: 1, Entries: journal.AppendEntry(nil, []byte(strings.Repeat("x", 100)))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if identity == "" {
		identity = `{"version":1,"session":1,"producers":[{"id":"p1","from":[0]}]}`
	}
	writeFile(t, filepath.Join(dir, identityName), identity)
	return dir
}

// daemonEnv leads to a daemon of which there is nothing to say.
func daemonEnv(t testing.TB) map[string]string {
	t.Helper()
	return map[string]string{"USAGE_URL": newFakeDaemon(t).URL, "USAGE_TOKEN": fakeAdmin}
}

// examine runs doctor and returns what it has found.
func examine(t testing.TB, tl *tool, args ...string) (*diagnosis, int) {
	t.Helper()
	if tl.now == nil {
		tl.now = time.Now
	}
	code := tl.run(t, append([]string{"doctor", "--output=json"}, args...)...)
	d := &diagnosis{}
	if err := json.Unmarshal(tl.stdout.Bytes(), d); err != nil {
		t.Fatal(err)
	}
	return d, code
}

// wantFindings compares what isn't ok with "level check: part of what was found".
func wantFindings(t testing.TB, d *diagnosis, want ...string) {
	t.Helper()
	for _, f := range d.Findings {
		if f.Level == levelOK {
			if f.Do != "" {
				t.Errorf("%s is ok, and yet: %s", f.Check, f.Do)
			}
			continue
		}
		if f.Do == "" {
			t.Errorf("%s %s: no advice", f.Level, f.Check)
		}
		if f.Check == "redis latency" && f.Level == levelWarn {
			continue // the machine of the test may be busy
		}
		if len(want) == 0 {
			t.Errorf("unexpected: %s %s: %s", f.Level, f.Check, f.Found)
			continue
		}
		head, part, _ := strings.Cut(want[0], ": ")
		if head != string(f.Level)+" "+f.Check || !strings.Contains(f.Found, part) {
			t.Errorf("found %s %s: %s; want %s", f.Level, f.Check, f.Found, want[0])
		}
		want = want[1:]
	}
	if len(want) > 0 {
		t.Errorf("not found: %q", want)
	}
}

func TestDoctorFindsNothingWrong(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--appendonly", "yes")
	dir := usedDataDir(t, 6, "")
	counted(t, srv.URL(), "p1", 6)
	newFakeDaemon(t).announce(t, dir)
	tl := &tool{env: map[string]string{"USAGE_REDIS_URL": srv.URL(), "USAGE_DATA_DIR": dir}}
	d, code := examine(t, tl)
	wantFindings(t, d)
	if code != exitOK || d.Worst != levelOK {
		t.Errorf("exit %d, worst %s", code, d.Worst)
	}
	if len(d.Producers) != 1 || !d.Producers[0].Own || *d.Producers[0].Offset != 6 || *d.Producers[0].Counted != 6 {
		t.Errorf("producers %+v", d.Producers)
	}
	if len(d.Memory) != 1 || d.Memory[0].Pairs != 6 || d.Memory[0].IDs != 1 || d.Memory[0].BytesPerPair == 0 {
		t.Errorf("memory %+v", d.Memory)
	}
}

func TestDoctorOfRedis(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		options []string
		prepare func(t *testing.T, srv *redistest.Server)
		args    []string
		now     func() time.Time
		want    []string
	}{
		{
			name: "it warns of a Redis that forgets",
			want: []string{"warn redis persistence: a restart of Redis forgets everything"},
		},
		{
			name: "it warns of snapshots alone", options: []string{"--save", "3600 1"},
			want: []string{"warn redis persistence: appendonly no, appendfsync everysec, save 3600 1; last snapshot"},
		},
		{
			name: "it fails where Redis may evict", options: []string{"--appendonly", "yes", "--maxmemory", "500mb", "--maxmemory-policy", "allkeys-lru"},
			want: []string{"fail redis eviction: maxmemory-policy allkeys-lru: Redis deletes rollups"},
		},
		{
			name: "it fails where memory is scarce", options: []string{"--appendonly", "yes"},
			prepare: func(t *testing.T, srv *redistest.Server) {
				srv.Do("SETRANGE", "filler", "60000000", "x")
				srv.Do("CONFIG", "SET", "maxmemory", "60mb")
			},
			want: []string{"fail redis memory: of 60.0 MiB used"},
		},
		{
			name: "it finds keys that are wrong", options: []string{"--appendonly", "yes"},
			prepare: func(t *testing.T, srv *redistest.Server) {
				srv.Do("SET", "usage:{p0}:day:2026-11-01:types", "1")
				srv.Do("SET", "usage:mine", "1")
			},
			want: []string{"fail redis keys: of another type than the daemon's: usage:{p0}:day:2026-11-01:types", "warn redis keys: usage:mine"},
		},
		{
			name: "it fails where the partitions differ", options: []string{"--appendonly", "yes"}, args: []string{"--redis.partitions=4"},
			want: []string{"fail redis schema: 1 partition, epoch"},
		},
		{
			name: "it warns of an empty Redis", options: []string{"--appendonly", "yes"},
			prepare: func(t *testing.T, srv *redistest.Server) { srv.Do("FLUSHALL") },
			want:    []string{"warn redis schema: there is no usage:meta"},
		},
		{
			name: "it fails with another schema", options: []string{"--appendonly", "yes"},
			prepare: func(t *testing.T, srv *redistest.Server) { srv.Do("HSET", "usage:meta", "schema", "99") },
			want:    []string{`fail redis schema: schema "99"`},
		},
		{
			name: "it fails where the clocks differ", options: []string{"--appendonly", "yes"},
			now:  func() time.Time { return time.Now().Add(-3 * time.Hour) },
			want: []string{"fail redis clock: 3 hours ahead of ours"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t, tc.options...)
			counted(t, srv.URL(), "p1", 6)
			if tc.prepare != nil {
				tc.prepare(t, srv)
			}
			tl := &tool{now: tc.now, env: daemonEnv(t)}
			d, code := examine(t, tl, append(tc.args, "--redis.url="+srv.URL(), "--data.dir="+filepath.Join(t.TempDir(), "none"))...)
			wantFindings(t, d, append([]string{"warn data directory: not examined"}, tc.want...)...)
			if fails := strings.Contains(strings.Join(tc.want, "\n"), "fail "); (code == exitFailure) != fails {
				t.Errorf("exit %d", code)
			}
		})
	}
}

func TestDoctorOfLoadingRedis(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--dbfilename", "dump.rdb", "--loading-process-events-interval-bytes", "1024", "--enable-debug-command", "yes")
	counted(t, srv.URL(), "p1", 6)
	srv.Do("DEBUG", "POPULATE", "3000", "filler")
	srv.Do("SAVE")
	srv.Kill()
	srv.Option("--key-load-delay", "1000")
	srv.RestartAnyhow()
	srv.WaitFor("LOADING", "GET", "filler:1")
	d, _ := examine(t, &tool{env: daemonEnv(t)}, "--redis.url="+srv.URL(), "--data.dir="+filepath.Join(t.TempDir(), "none"))
	wantFindings(t, d, "warn data directory: not examined", "warn redis: it is loading its data")
}

// TestDoctorHidesCredentials tries every way in which a password could come out.
func TestDoctorHidesCredentials(t *testing.T) {
	t.Parallel()
	const password = "hunter2"
	srv := redistest.Start(t, "--requirepass", password)
	srv.Login("default", password)
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "password"), password+"\n")
	counted(t, "redis://:"+password+"@"+srv.Addr, "p1", 6)
	srv.Do(append([]string{"ACL", "SETUSER", "usaged", "on", ">" + password}, redis.ACL()...)...)
	for _, tc := range []struct {
		url  string
		args []string
		code int
		want string
	}{
		{"redis://:" + password + "@" + srv.Addr, nil, exitOK, "redis://" + srv.Addr},
		{srv.URL(), []string{"--redis.password-file=" + file}, exitOK, "redis://" + srv.Addr},
		{"redis://usaged:" + password + "@" + srv.Addr, nil, exitOK, "not known: NOPERM"},
		{"redis://:" + password + "-wrong@" + srv.Addr, nil, exitFailure, "WRONGPASS"},
		{srv.URL(), nil, exitFailure, "NOAUTH"},
		{"redis://:" + password + "@127.0.0.1:1", nil, exitFailure, "connection refused"},
		{"redis://:" + password + "@" + srv.Addr + "/x", nil, exitUsage, "is not a number"},
		{"redis://:" + password + "@" + srv.Addr, []string{"--redis.password-file=" + file}, exitUsage, "give one of them"},
		{"redis://:" + password + "@" + srv.Addr, []string{"--help"}, exitOK, "--redis.url=URL"},
		{"redis://:" + password + "@" + srv.Addr, []string{"--nonsense"}, exitUsage, "unknown long flag"},
	} {
		env := daemonEnv(t)
		env["USAGE_REDIS_URL"], env["USAGE_DATA_DIR"] = tc.url, filepath.Join(dir, "none")
		tl := &tool{now: time.Now, env: env}
		for _, output := range []string{"table", "json"} {
			if code := tl.run(t, append([]string{"doctor", "--output=" + output}, tc.args...)...); code != tc.code {
				t.Errorf("%s %q: exit %d, want %d", tc.url, tc.args, code, tc.code)
			}
			text := tl.stdout.String() + tl.stderr.String()
			if strings.Contains(text, password) || !strings.Contains(text, tc.want) {
				t.Errorf("%s %q says %s; want %q in it and no password", tc.url, tc.args, text, tc.want)
			}
		}
	}
}

func TestDoctorOfDataDirectory(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		make func(t *testing.T) string
		want []string
	}{
		{"it finds nothing wrong", func(t *testing.T) string { return usedDataDir(t, 6, "") }, nil},
		{"it takes a journal without events", func(t *testing.T) string { return usedDataDir(t, 0, "") }, nil},
		{"it misses a directory", func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, []string{"fail data directory: no such file"}},
		{"it names an empty directory", func(t *testing.T) string { return t.TempDir() }, []string{
			"warn data directory: is empty: no daemon has used it"}},
		{"it misses a journal", func(t *testing.T) string {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "tokens.yml"), "[]")
			return dir
		}, []string{"warn journal: there is none"}},
		{"it finds damage", func(t *testing.T) string {
			dir := usedDataDir(t, 6, "")
			if err := damage(filepath.Join(dir, datadir.Journal, "00000000")); err != nil {
				t.Fatal(err)
			}
			return dir
		}, []string{"fail journal: 1 event cannot be read"}},
		{"it finds a damaged identity", func(t *testing.T) string { return usedDataDir(t, 6, "{") }, []string{"fail producer id: producer.json is damaged"}},
		{"it says that another process has taken over", func(t *testing.T) string {
			return usedDataDir(t, 6, `{"version":1,"session":1,"fenced":true,"producers":[{"id":"p1","from":[0]}]}`)
		}, []string{"fail producer id: p1, session 1: another process has taken it over"}},
		{"it misses checkpoints", func(t *testing.T) string {
			dir := usedDataDir(t, 6, "")
			for i := 1; i < 5; i++ {
				writeFile(t, filepath.Join(dir, datadir.Journal, fmt.Sprintf("%08d", i)), "")
			}
			return dir
		}, []string{"warn checkpoints: 4 segments behind the newest one"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d, code := examine(t, &tool{env: daemonEnv(t)}, "--data.dir="+tc.make(t))
			wantFindings(t, d, tc.want...)
			if fails := strings.Contains(strings.Join(tc.want, "\n"), "fail "); (code == exitFailure) != fails {
				t.Errorf("exit %d", code)
			}
		})
	}
}

// TestDoctorComparesWithRedis holds a journal against what Redis has applied of it.
func TestDoctorComparesWithRedis(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--appendonly", "yes")
	counted(t, srv.URL(), "p1", 6)
	for _, tc := range []struct {
		name     string
		events   int
		identity string
		want     []string
	}{
		{"it knows that all is applied", 6, "", nil},
		{"it counts what is not applied", 9, "", nil},
		{"it finds a restored snapshot", 5, "", []string{"fail redis lag: Redis has applied event 6 of this producer, the journal ends at 5"}},
		{"it finds a journal that was never applied", 6, `{"version":1,"session":1,"producers":[{"id":"p2","from":[0]}]}`,
			[]string{"warn redis lag: doesn't know the producer"}},
		{"it finds a second process", 6, `{"version":1,"session":0,"producers":[{"id":"p1","from":[0]}]}`,
			[]string{"fail redis lag: Redis has session 1 of this producer, the data directory 0"}},
		{"it finds another number of partitions", 6, `{"version":1,"session":1,"producers":[{"id":"p1","from":[0,0]}]}`,
			[]string{"fail redis schema: the data directory was used with 2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d, _ := examine(t, &tool{env: daemonEnv(t)}, "--data.dir="+usedDataDir(t, tc.events, tc.identity), "--redis.url="+srv.URL())
			wantFindings(t, d, tc.want...)
			if lag := fmt.Sprintf("%d events behind", tc.events-6); tc.want == nil && !strings.Contains(fmt.Sprint(d.Findings), lag) {
				t.Errorf("not found: %s", lag)
			}
		})
	}
}

func TestDoctorOfDaemon(t *testing.T) {
	t.Parallel()
	dir := usedDataDir(t, 6, "")
	d := newFakeDaemon(t)
	d.skew = 1
	d.announce(t, dir)
	found, code := examine(t, &tool{}, "--data.dir="+dir)
	wantFindings(t, found, "fail ledger: it does not balance")
	if code != exitFailure {
		t.Errorf("exit %d, want 1", code)
	}
	d.mu.Lock()
	d.skew = 0
	d.metrics = "usaged_fenced 1\nusaged_journal_available 0\nusaged_store_ahead 1\nusaged_apply_lag_seconds 61.5\n"
	d.mu.Unlock()
	found, _ = examine(t, &tool{}, "--data.dir="+dir)
	wantFindings(t, found, "fail daemon metrics: the journal cannot accept", "fail daemon metrics: another process", "warn daemon metrics: the store held events",
		"warn daemon metrics: is 62 s old")
	if err := os.Remove(filepath.Join(dir, adminFile)); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.metrics = ""
	d.mu.Unlock()
	found, _ = examine(t, &tool{}, "--data.dir="+dir)
	wantFindings(t, found, "warn ledger: wants a token")
	writeFile(t, filepath.Join(dir, urlFile), "http://127.0.0.1:1\n")
	found, _ = examine(t, &tool{}, "--data.dir="+dir)
	wantFindings(t, found, "fail daemon: nobody answers at http://127.0.0.1:1: dial")
	unknown := untrusted(t)
	writeFile(t, filepath.Join(dir, urlFile), unknown.URL+"\n")
	found, _ = examine(t, &tool{}, "--data.dir="+dir)
	wantFindings(t, found, "fail daemon: the certificate of "+unknown.URL+" ")
}

func TestWrap(t *testing.T) {
	t.Parallel()
	if got := wrap(""); len(got) != 1 {
		t.Errorf("wrap of nothing: %q", got)
	}
	lines := wrap(strings.Repeat("word ", 50) + strings.Repeat("x", 200))
	for _, line := range lines[:len(lines)-1] {
		if len(line) > 92 {
			t.Errorf("%q", line)
		}
	}
	if len(lines) != 4 {
		t.Errorf("%d lines, want 4", len(lines))
	}
	for d, want := range map[time.Duration]string{
		90 * time.Microsecond: "0.09 ms", 90 * time.Second: "90 s", 90 * time.Minute: "90 minutes", 30 * time.Hour: "30 hours", 72 * time.Hour: "3 days",
	} {
		if got := shortly(d); got != want {
			t.Errorf("shortly(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 30: "5.0 GiB"} {
		if got := binaryBytes(n); got != want {
			t.Errorf("binaryBytes(%d) = %q, want %q", n, got, want)
		}
	}
}
