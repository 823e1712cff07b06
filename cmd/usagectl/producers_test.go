package main

import (
	"strings"
	"testing"
	"time"

	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// TestProducers lists producers and prunes them, each step seeing what the one before has left.
func TestProducers(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	// Rebuilds are not listed, and go with their producer.
	for _, id := range []string{"p1", "p2", "p3", "p2.rooms@1", "p3.rooms@1", "p3.projects@2"} {
		counted(t, srv.URL(), id, 6)
		srv.Do("DEL", "usage:{p0}:ids:"+time.Now().UTC().Format(time.DateOnly)+":0")
	}
	own := usedDataDir(t, 6, `{"version":1,"session":1,"producers":[{"id":"p1","from":[0]}]}`)
	fake := newFakeDaemon(t)
	stop := use(t, srv.URL(), "p2")
	for _, tc := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"it lists them", []string{"producers"}, exitOK,
			"PRODUCER  OWN  OFFSET  SESSION  COUNTED  DUPLICATES\np1        yes       6        1        6           0\n" +
				"p2                  6        1        6           0\np3                  6        1        6           0\n", ""},
		{"it knows none of this name", []string{"producers", "prune", "p9"}, exitFailure, "", `knows no producer "p9"`},
		{"it keeps its own", []string{"producers", "prune", "p1"}, exitFailure, "", "is the producer of the data directory"},
		{"it keeps the one of the daemon", []string{"producers", "prune", "p1", "--data.dir=none", "--url=" + fake.URL}, exitFailure, "",
			"is the producer of the daemon at " + fake.URL},
		{"it keeps one in use", []string{"producers", "prune", "p2"}, exitFailure, "", "p2 is in use"},
		{"it prunes one that is gone", []string{"producers", "prune", "p3"}, exitOK,
			"pruned p3: offset 6, 6 counted, 0 duplicates\nWhat it has added to the rollups stays until it expires. " +
				"Should its data directory come back, it goes on where it was and is listed again.\n", ""},
		{"it does what it is told", []string{"producers", "prune", "p1", "--force", "--output=json"}, exitOK,
			"{\n  \"pruned\": {\n    \"id\": \"p1\",\n    \"own\": false,\n    \"offset\": 6,\n    \"session\": 1,\n    \"counted\": 6,\n    \"duplicates\": 0\n  }\n}\n", ""},
		{"it knows none of this name, by force", []string{"producers", "prune", "p1", "--force"}, exitFailure, "", `knows no producer "p1"`},
		{"it lists what is left", []string{"producers", "list", "--data.dir=none"}, exitOK,
			"PRODUCER  OWN  OFFSET  SESSION  COUNTED  DUPLICATES\np2                  6        1        6           0\n", ""},
	} {
		if tc.name == "it prunes one that is gone" {
			stop()
		}
		tl := &tool{env: map[string]string{
			"USAGE_DATA_DIR": own, "USAGE_REDIS_URL": srv.URL(), "USAGE_URL": "http://127.0.0.1:1", "USAGE_TOKEN": fakeAdmin,
		}}
		if code := tl.run(t, tc.args...); code != tc.code {
			t.Errorf("%s: exit %d, want %d", tc.name, code, tc.code)
		}
		if tl.stdout.String() != tc.stdout || !strings.Contains(tl.stderr.String(), tc.stderr) {
			t.Errorf("%s: stdout %q, want %q; stderr %q, want %q in it", tc.name, &tl.stdout, tc.stdout, &tl.stderr, tc.stderr)
		}
	}
	if left := srv.Do("SMEMBERS", "usage:{p0}:producers"); strings.Contains(left, "p3") || !strings.Contains(left, "p2.rooms@1") {
		t.Errorf("producers %q are left, want p2 and its rebuild", left)
	}
	if n := srv.Do("ZCARD", "usage:{p0}:day:"+time.Now().UTC().Format(time.DateOnly)+":type:a"); n != "6" {
		t.Errorf("%s users are left in the rollup, want 6", n)
	}
}

// use looks at a producer every second, as its daemon does.
func use(t *testing.T, url, producer string) (stop func()) {
	t.Helper()
	st, err := redis.Open(t.Context(), redis.Config{URL: url, Partitions: 1, Retention: 30})
	if err != nil {
		t.Fatal(err)
	}
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		defer st.Close()
		for {
			if _, err := st.Producer(t.Context(), 0, producer); err != nil {
				t.Error(err)
			}
			select {
			case <-done:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}

func TestProducersWithoutRedis(t *testing.T) {
	t.Parallel()
	d := newFakeDaemon(t)
	tl := &tool{env: map[string]string{"USAGE_DATA_DIR": d.dataDir(t)}}
	if code := tl.run(t, "producers"); code != exitOK || tl.stdout.String() !=
		"PRODUCER  OWN  OFFSET  SESSION  COUNTED  DUPLICATES\np1        yes       –        –        0           0\n" {
		t.Errorf("exit %d, stdout %q", code, &tl.stdout)
	}
	if code := tl.run(t, "producers", "prune", "p1"); code != exitUsage || !strings.Contains(tl.stderr.String(), "needs no pruning") {
		t.Errorf("exit %d, stderr %q", code, &tl.stderr)
	}
	if code := tl.run(t, "producers", "--redis.password-file=x"); code != exitUsage || !strings.Contains(tl.stderr.String(), "need --redis.url") {
		t.Errorf("exit %d, stderr %q", code, &tl.stderr)
	}
	srv := redistest.Start(t)
	if code := tl.run(t, "producers", "--redis.url="+srv.URL()); code != exitFailure || !strings.Contains(tl.stderr.String(), "no usage:meta") {
		t.Errorf("exit %d, stderr %q", code, &tl.stderr)
	}
}
