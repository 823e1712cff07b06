package quota_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usaged/api/auth"
	"usaged/api/quota"
)

func load(t testing.TB, text string) (*quota.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "quotas.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return quota.Load(path)
}

func nothing() any { return nil }

func TestLimitsOfTokens(t *testing.T) {
	t.Parallel()
	cfg, err := load(t, "- {role: user, events_per_second: 5, new_types_per_day: 0}\n- {token: ann, events_per_second: 7}\n")
	if err != nil {
		t.Fatal(err)
	}
	accounts := quota.NewAccounts(cfg, nil)
	standard := quota.Defaults()[auth.RoleUser]
	for name, want := range map[string]int{"bob": 5, "ann": 7} {
		got := accounts.Of(&auth.Token{Name: name, Role: auth.RoleUser}, nothing).Limits()
		if got.Events != want || got.Bytes != standard.Bytes || got.NewTypes != 0 {
			t.Errorf("%s has %+v", name, got)
		}
	}
}

func TestLoadNamesFaults(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"- {role: user, token: a}\n":                   "quotas.yml:1: entry 1: name either a role or a token",
		"- {role: nobody}\n":                           "the role must be one of",
		"- {token: a}\n- {token: a}\n":                 "quotas.yml:2: entry 2: an entry before",
		"- {token: a, events_per_second: -1}\n":        "0 for none",
		"- {token: a, evens_per_second: 1}\n":          "evens_per_second",
		"- {token: a, events_per_second: quickly}\n":   "quotas.yml:1",
		"- {token: a, concurrent_reads: 99999999999}}": "quotas.yml",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
}

// TestSpend follows a bucket through time.
func TestSpend(t *testing.T) {
	t.Parallel()
	cfg, err := load(t, "- {token: ann, events_per_second: 2000}\n")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	accounts := quota.NewAccounts(cfg, func() time.Time { return now })
	ann := accounts.Of(&auth.Token{Name: "ann", Role: auth.RoleProducer}, nothing)
	if wait := ann.Spend(quota.Events, 20_000, now); wait != 0 {
		t.Errorf("ten seconds' worth after a pause: wait %s", wait)
	}
	if wait := ann.Spend(quota.Events, 1_000, now); wait != 500*time.Millisecond {
		t.Errorf("what takes half a second more: wait %s", wait)
	}
	now = now.Add(500 * time.Millisecond)
	if wait := ann.Spend(quota.Events, 1_000, now); wait != 0 {
		t.Errorf("after that time: wait %s", wait)
	}
	if wait := ann.Spend(quota.IDs, 1_000_000, now); wait != 0 {
		t.Errorf("without a limit: wait %s", wait)
	}
	// The same limits under a new configuration are the same bucket, so that a reload gives nobody more.
	again, err := load(t, "- {token: ann, events_per_second: 2000}\n")
	if err != nil {
		t.Fatal(err)
	}
	accounts.Configure(again)
	if wait := accounts.Of(&auth.Token{Name: "ann", Role: auth.RoleProducer}, nothing).Spend(quota.Events, 1, now); wait == 0 {
		t.Error("a reload has filled the bucket")
	}
}

// BenchmarkAccount measures what each request pays.
func BenchmarkAccount(b *testing.B) {
	cfg, err := load(b, "- {role: producer, events_per_second: 1000000000, bytes_per_second: 1000000000, ids_per_second: 1000000000}\n")
	if err != nil {
		b.Fatal(err)
	}
	accounts := quota.NewAccounts(cfg, nil)
	who := &auth.Token{Name: "ann", Role: auth.RoleProducer}
	for b.Loop() {
		now := time.Now()
		account := accounts.Of(who, nothing)
		account.Spend(quota.Events, 1, now)
		account.Spend(quota.Bytes, 1, now)
		account.Spend(quota.IDs, 1, now)
	}
}
