package redis_test

import (
	"errors"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/event"
	"usaged/aggregator/meter"
	"usaged/aggregator/store"
	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// wantClass checks that an error is of a class, says what to do, and has been counted.
func wantClass(t *testing.T, err error, class redis.Class, set *vm.Set) {
	t.Helper()
	var e *redis.Error
	if !errors.As(err, &e) || e.Class != class {
		t.Fatalf("error = %v, want one of class %s", err, class)
	}
	if !strings.HasSuffix(err.Error(), ")") {
		t.Errorf("error %q doesn't say what to do", err)
	}
	if got := metric(set, errorsMetric(string(class))); got == "" || got == "0" {
		t.Errorf("%s = %q, want at least 1", errorsMetric(string(class)), got)
	}
}

// TestFaults makes Redis refuse a batch in each way that it can: nothing may change then, the error names the class, and the
// same batch takes effect once the fault is gone.
func TestFaults(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	today := event.DayOf(time.Now())
	config1 := func(name, value string) func() { return func() { srv.Do("CONFIG", "SET", name, value) } }
	tests := []struct {
		it      string
		class   redis.Class
		mention string
		begin   func()
		end     func()
	}{
		{it: "is out of memory", class: redis.OutOfMemory, mention: "maxmemory", begin: config1("maxmemory", "1"), end: config1("maxmemory", "0")},
		{it: "lacks replicas", class: redis.NoReplicas, mention: "min-replicas-to-write", begin: config1("min-replicas-to-write", "1"), end: config1("min-replicas-to-write", "0")},
		{
			it: "is a replica", class: redis.ReadOnly, mention: "replica",
			begin: func() { srv.Do("REPLICAOF", "127.0.0.1", "1") }, end: func() { srv.Do("REPLICAOF", "NO", "ONE") },
		},
	}
	for _, kind := range []string{
		"producers", "producer:p", "day:" + today.String() + ":version", "day:" + today.String() + ":types",
		"day:" + today.String() + ":type:t", "day:" + today.String() + ":type:__other__", "day:" + today.String() + ":meter:queries:user",
		"day:" + today.String() + ":meter:queries:ref", "ids:" + today.String() + ":0",
	} {
		key := "usage:{p0}:" + kind
		tests = append(tests, struct {
			it      string
			class   redis.Class
			mention string
			begin   func()
			end     func()
		}{
			it: "has another kind of " + kind, class: redis.WrongType, mention: key,
			begin: func() { srv.Do("LPUSH", key, "planted") }, end: func() { srv.Do("DEL", key) },
		})
	}
	for _, tt := range tests {
		t.Run("it "+tt.it, func(t *testing.T) {
			srv.Do("FLUSHALL")
			cfg := config(t, srv.URL(), 1)
			cfg.Metrics = vm.NewSet()
			s := openClosed(t, cfg)
			// On days of its own, so that the keys that are planted are free.
			warm := batch(0, 1)
			warm.Producer, warm.Claims = "another", nil
			warm.Days = map[event.Day]*meter.DayDelta{today - 5: warm.Days[today]}
			if tt.class != redis.WrongType {
				mustApply(t, s, warm)
			}
			tt.begin()
			before := content(srv)
			_, err := s.Apply(t.Context(), batch(0, 10))
			wantClass(t, err, tt.class, cfg.Metrics)
			if !strings.Contains(err.Error(), tt.mention) {
				t.Errorf("error %q doesn't mention %s", err, tt.mention)
			}
			if after := content(srv); !maps.Equal(before, after) {
				t.Errorf("the refused batch changed keys: %q before, %q after", before, after)
			}
			tt.end()
			mustApply(t, s, batch(0, 10))
		})
	}
}

func TestLoading(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--dbfilename", "dump.rdb", "--loading-process-events-interval-bytes", "1024",
		"--enable-debug-command", "yes")
	cfg := config(t, srv.URL(), 1)
	cfg.Metrics = vm.NewSet()
	s := openClosed(t, cfg)
	mustApply(t, s, batch(0, 1))
	srv.Do("DEBUG", "POPULATE", "3000", "filler")
	srv.Do("SAVE")
	srv.Kill()
	srv.Option("--key-load-delay", "1000")
	srv.RestartAnyhow()
	srv.WaitFor("LOADING", "GET", "filler:1")
	_, err := s.Apply(t.Context(), batch(1, 2))
	wantClass(t, err, redis.Loading, cfg.Metrics)
	srv.WaitFor("PONG", "PING")
	mustApply(t, s, batch(1, 2))
}

func TestScriptFlush(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	s := openClosed(t, config(t, srv.URL(), 1))
	for i := range uint64(3) {
		srv.Do("SCRIPT", "FLUSH")
		mustApply(t, s, batch(i, i+1))
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	srv.Kill()
	for _, partitions := range []int{0, 2} {
		cfg := config(t, srv.URL(), partitions)
		cfg.Metrics = vm.NewSet()
		s := openClosed(t, cfg)
		if got, want := s.Partitions(), max(partitions, 1); got != want {
			t.Errorf("partitions = %d, want %d", got, want)
		}
		days := []event.Day{event.DayOf(time.Now())}
		_, applyErr := s.Apply(t.Context(), batch(0, 1))
		_, producerErr := s.Producer(t.Context(), 0, "p")
		_, producersErr := s.Producers(t.Context())
		_, versionsErr := s.Versions(t.Context(), days)
		_, typesErr := s.Types(t.Context(), days)
		sumErr := s.Sum(t.Context(), references, days, func([]byte, uint64) {})
		for _, err := range []error{applyErr, producerErr, producersErr, versionsErr, typesErr, sumErr} {
			wantClass(t, err, redis.Unreachable, cfg.Metrics)
		}
		srv.Restart()
		// After many failures the client dials in the background, once a second.
		redistest.Eventually(t, func() bool {
			out, err := s.Apply(t.Context(), batch(0, 1))
			return err == nil && out.Applied
		}, func() string { return "Redis is back and not found" })
		srv.Kill()
	}
}

// TestHanging stops Redis without closing its connections.
func TestHanging(t *testing.T) {
	t.Parallel()
	if !full {
		t.Skip("waits for timeouts; set USAGE_TEST_FULL=1")
	}
	srv := redistest.Start(t)
	cfg := config(t, srv.URL(), 1)
	cfg.Metrics = vm.NewSet()
	mustApply(t, openClosed(t, cfg), batch(0, 1))
	cfg.Metrics = vm.NewSet()
	s := openClosed(t, cfg.Patiently(0))
	srv.Hang()
	began := time.Now()
	_, err := s.Apply(t.Context(), batch(1, 2))
	wantClass(t, err, redis.Timeout, cfg.Metrics)
	if took := time.Since(began); took > redistest.Timeout {
		t.Errorf("Apply took %v", took)
	}
	srv.Continue()
	redistest.Eventually(t, func() bool {
		p, err := s.Producer(t.Context(), 0, "p")
		return err == nil && p.Offset >= 1
	}, func() string { return "Redis does not come back" })
}

func TestPassword(t *testing.T) {
	t.Parallel()
	const secret, user = "p@ss:wörd/?#%", "us:er"
	srv := redistest.Start(t, "--requirepass", "for-the-test")
	srv.Login("default", "for-the-test")
	srv.Do("ACL", "SETUSER", user, "on", ">"+secret, "~*", "+@all")
	wrong := "not-the-" + secret
	file := filepath.Join(t.TempDir(), "password")
	for _, tt := range []struct {
		it             string
		user, password string
		file           string
		class          redis.Class
	}{
		{it: "takes user and password of the URL", user: user, password: secret},
		{it: "takes the password of a file", user: user, file: secret + "\n"},
		{it: "refuses a wrong password", user: user, password: wrong, class: redis.NoAuth},
		{it: "refuses a wrong password of a file", user: user, file: wrong, class: redis.NoAuth},
		{it: "refuses no password", class: redis.NoAuth},
	} {
		t.Run("it "+tt.it, func(t *testing.T) {
			srv.Do("FLUSHALL")
			var log strings.Builder
			u := url.URL{Scheme: "redis", Host: srv.Addr}
			if tt.user != "" {
				u.User = url.User(tt.user)
			}
			if tt.password != "" {
				u.User = url.UserPassword(tt.user, tt.password)
			}
			cfg := config(t, u.String(), 0)
			cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			cfg.Metrics = vm.NewSet()
			if tt.file != "" {
				if err := os.WriteFile(file, []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
				cfg.PasswordFile = file
			}
			s := openClosed(t, cfg)
			_, err := s.Apply(t.Context(), batch(0, 1))
			if tt.class == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantClass(t, err, tt.class, cfg.Metrics)
			for _, text := range []string{err.Error(), log.String()} {
				for _, part := range []string{tt.password, tt.file, url.PathEscape(wrong), "not-the", user} {
					if part != "" && strings.Contains(text, part) {
						t.Errorf("%q shows %q", text, part)
					}
				}
			}
		})
	}
	t.Run("it reads the password file again", func(t *testing.T) {
		if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := config(t, (&url.URL{Scheme: "redis", User: url.User(user), Host: srv.Addr}).String(), 1)
		cfg.PasswordFile = file
		s := openClosed(t, cfg)
		if _, err := s.Producers(t.Context()); err == nil {
			t.Fatal("no error")
		}
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Producers(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t"
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		it  string
		cfg redis.Config
	}{
		{"needs a URL", redis.Config{}},
		{"refuses another scheme", redis.Config{URL: "http://u:" + secret + "@h"}},
		{"refuses a URL without scheme", redis.Config{URL: "u:" + secret + "@h:6379"}},
		{"refuses a password that is not encoded", redis.Config{URL: "redis://u:" + secret + "/x@h:6379"}},
		{"refuses a bad encoding", redis.Config{URL: "redis://u:" + secret + "%zz@h:6379"}},
		{"refuses a bad port", redis.Config{URL: "redis://h:" + secret}},
		{"refuses port 0", redis.Config{URL: "redis://u:" + secret + "@h:0"}},
		{"refuses no host", redis.Config{URL: "redis://u:" + secret + "@"}},
		{"refuses several hosts", redis.Config{URL: "redis://u:" + secret + "@a,b"}},
		{"refuses a bad database", redis.Config{URL: "redis://u:" + secret + "@h/" + secret}},
		{"refuses a database of a cluster", redis.Config{URL: "redis+cluster://u:" + secret + "@h/1"}},
		{"refuses Sentinels without a master", redis.Config{URL: "redis+sentinel://u:" + secret + "@h"}},
		{"refuses an IPv6 address without brackets", redis.Config{URL: "redis://::1:6379"}},
		{"refuses one with a zone and a database", redis.Config{URL: "redis://u:" + secret + "@fe80::1:6379/0"}},
		{"refuses one among the hosts of a cluster", redis.Config{URL: "redis+cluster://u:" + secret + "@a:1,::1:6379"}},
		{"refuses one among Sentinels", redis.Config{URL: "redis+sentinel://u:" + secret + "@[::1]:1,fe80::2:26379/usage"}},
		{"refuses brackets without an address", redis.Config{URL: "redis://u:" + secret + "@[host]:1"}},
		{"refuses brackets around IPv4", redis.Config{URL: "redis://[127.0.0.1]:1"}},
		{"refuses a bracket that is not closed", redis.Config{URL: "redis://[::1:6379"}},
		{"refuses a host with a blank", redis.Config{URL: "redis://u:" + secret + "@a b:1"}},
		{"refuses files for TLS without TLS", redis.Config{URL: "redis://u:" + secret + "@h", TLS: redis.TLS{CAFile: empty}}},
		{"refuses a name for TLS without TLS", redis.Config{URL: "redis+cluster://h", TLS: redis.TLS{ServerName: "h"}}},
		{"refuses an unknown parameter", redis.Config{URL: "redis://h?password=" + secret}},
		{"refuses a relative socket", redis.Config{URL: "unix://u:" + secret + "@tmp/sock"}},
		{"refuses a missing password file", redis.Config{URL: "redis://h", PasswordFile: filepath.Join(dir, "missing")}},
		{"refuses an empty password file", redis.Config{URL: "redis://h", PasswordFile: empty}},
		{"refuses two passwords", redis.Config{URL: "redis://:" + secret + "@h", PasswordFile: empty}},
		{"refuses a missing CA file", redis.Config{URL: "rediss://u:" + secret + "@h", TLS: redis.TLS{CAFile: filepath.Join(dir, "missing")}}},
		{"refuses a CA file without certificates", redis.Config{URL: "rediss://h", TLS: redis.TLS{CAFile: empty}}},
		{"refuses a certificate without key", redis.Config{URL: "rediss://h", TLS: redis.TLS{CertFile: empty}}},
		{"refuses negative partitions", redis.Config{URL: "redis://h", Partitions: -1}},
		{"needs a retention", redis.Config{URL: "redis://h", Partitions: 1, Retention: -1}},
	} {
		t.Run("it "+tt.it, func(t *testing.T) {
			if tt.cfg.Retention == 0 {
				tt.cfg.Retention = 30
			}
			s, err := redis.Open(t.Context(), tt.cfg)
			if err == nil {
				t.Fatalf("no error, %v", s.Close())
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("error %q shows the password", err)
			}
		})
	}
}

func TestGoodURLs(t *testing.T) {
	t.Parallel()
	for _, u := range []string{
		"redis://h", "redis://h:1/3", "redis://:pw@h", "redis://u@h/", "redis://[::1]:6379", "redis://[::1]", "redis://[fe80::1%25lo]:6379", "redis://[fe80::1%lo]", "redis+cluster://[::1]:1,[2001:db8::2]",
		"redis://127.0.0.1:6379", "redis://höst_1.example-2.:6379", "rediss://h", "unix:///tmp/s",
		"unix://u:pw@/tmp/s?db=2", "redis+sentinel://a,b:26380,c/usage/2?sentinel_password=x", "rediss+sentinel://u:p@a/usage",
		"redis+cluster://a:1,b:2", "rediss+cluster://u:p@a",
	} {
		s, err := redis.Open(t.Context(), redis.Config{URL: u, Partitions: 1, Retention: 1})
		if err != nil {
			t.Errorf("%s: %v", u, err)
			continue
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: close: %v", u, err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	// Not in t.TempDir, whose path may be too long for a socket.
	dir, err := os.MkdirTemp("", "usaged")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "redis.sock")
	redistest.Start(t, "--unixsocket", socket)
	s := openClosed(t, config(t, "unix://"+socket, 1))
	mustApply(t, s, batch(0, 1))
}

func TestMeta(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	now := time.Now()
	cfg := config(t, srv.URL(), 4)
	cfg.Now = func() time.Time { return now }
	cfg.Metrics = vm.NewSet()
	s := openClosed(t, cfg)
	mustApply(t, s, batch(0, 1))
	if got := srv.Do("HGET", "usage:meta", "partitions"); got != "4" {
		t.Errorf("usage:meta has partitions %q, want 4", got)
	}

	otherCfg := config(t, srv.URL(), 2)
	otherCfg.Metrics = vm.NewSet()
	if _, err := redis.Open(t.Context(), otherCfg); !errors.Is(err, store.ErrIncompatible) || !strings.Contains(err.Error(), "--redis.partitions=4") {
		t.Errorf("with another number of partitions: %v, want ErrIncompatible", err)
	}
	if names := otherCfg.Metrics.ListMetricNames(); len(names) > 0 {
		t.Errorf("metrics are left: %q", names)
	}
	if got := openClosed(t, config(t, srv.URL(), 0)).Partitions(); got != 4 {
		t.Errorf("unconfigured, the store has %d partitions, want 4", got)
	}

	epoch := srv.Do("HGET", "usage:meta", "epoch")
	srv.Do("FLUSHALL")
	now = now.Add(3 * time.Second)
	if _, err := s.Producer(t.Context(), 0, "p"); err != nil {
		t.Fatal(err)
	}
	if got := srv.Do("HGET", "usage:meta", "epoch"); got == "" || got == epoch {
		t.Errorf("epoch = %q after FLUSHALL, was %q", got, epoch)
	}
	if got := metric(cfg.Metrics, "usaged_store_redis_meta_rewrites_total"); got != "2" {
		t.Errorf("%s rewrites, want 2", got)
	}

	srv.Do("HSET", "usage:meta", "schema", "99")
	now = now.Add(3 * time.Second)
	for range 2 {
		if _, err := s.Apply(t.Context(), batch(0, 1)); !errors.Is(err, store.ErrIncompatible) {
			t.Errorf("with another schema: %v, want ErrIncompatible", err)
		}
	}
	if got := metric(cfg.Metrics, errorsMetric("incompatible")); got != "2" {
		t.Errorf("%s incompatible errors, want 2", got)
	}
	srv.Do("HSET", "usage:meta", "schema", "1")
	mustApply(t, s, batch(0, 1))
}

func TestEvictionPolicy(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, "--maxmemory-policy", "allkeys-lru")
	const name = "usaged_store_redis_eviction_policy_ok"
	var log strings.Builder
	now := time.Now()
	cfg := config(t, srv.URL(), 1)
	cfg.Now = func() time.Time { return now }
	cfg.Metrics = vm.NewSet()
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := openClosed(t, cfg)
	mustApply(t, s, batch(0, 1))
	if got := metric(cfg.Metrics, name); got != "0" || !strings.Contains(log.String(), "maxmemory-policy") {
		t.Errorf("metric = %q, want 0 and a warning; log: %s", got, log.String())
	}
	srv.Do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	now = now.Add(2 * time.Minute)
	mustApply(t, s, batch(1, 2))
	if got := metric(cfg.Metrics, name); got != "1" {
		t.Errorf("metric = %q, want 1", got)
	}
}

// TestACL runs under a user who may use nothing but what the package documents.
func TestACL(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	srv.Do(append([]string{"ACL", "SETUSER", "usaged", "on", ">pw"}, redis.ACL()...)...)
	cfg := config(t, "redis://usaged:pw@"+srv.Addr, 2)
	cfg.Metrics = vm.NewSet()
	s := openClosed(t, cfg)
	mustApply(t, s, batch(0, 1))
	days := []event.Day{event.DayOf(time.Now()), event.DayOf(time.Now()) - 1}
	if _, err := s.Producers(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Producer(t.Context(), 1, "p"); err != nil {
		t.Error(err)
	}
	if _, err := s.Versions(t.Context(), days); err != nil {
		t.Error(err)
	}
	if _, err := s.Types(t.Context(), days); err != nil {
		t.Error(err)
	}
	for n := range days {
		if err := s.Sum(t.Context(), references, days[:n+1], func([]byte, uint64) {}); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Alive(t.Context(), "p", time.Minute); err != nil {
		t.Error(err)
	}
	if got := metric(cfg.Metrics, "usaged_store_redis_eviction_policy_ok"); got != "1" {
		t.Errorf("the eviction policy could not be read: %q", got)
	}
	t.Run("it changes nothing where a command of the script is not allowed", func(t *testing.T) {
		for _, command := range []string{"hset", "sadd", "set", "expireat", "zadd", "zmscore", "zcard", "zscore", "hmget", "hget", "hlen", "hexists", "type", "exists", "time", "pttl", "evalsha"} {
			srv.Do("ACL", "SETUSER", "usaged", "-"+command)
			if command == "evalsha" {
				srv.Do("ACL", "SETUSER", "usaged", "-eval")
			}
			before, versionKey := content(srv), "usage:{p0}:day:"+days[0].String()+":version"
			b := batch(1, 2)
			b.Days[days[0]].Types["new"] = 1
			b.Days[days[0]].Rollups[meter.TypeRollup("new")] = meter.Cells{"u": 1}
			_, err := s.Apply(t.Context(), b)
			wantClass(t, err, redis.NoPermission, cfg.Metrics)
			after := content(srv)
			delete(before, versionKey) // a new version of an unchanged day does no harm
			delete(after, versionKey)
			if !maps.Equal(before, after) {
				t.Errorf("without %s the batch changed keys: %q, then %q", command, before, after)
			}
			srv.Do("ACL", "SETUSER", "usaged", "+"+command, "+eval")
		}
		mustApply(t, s, batch(1, 2))
	})
}
