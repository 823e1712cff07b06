// Package quota bounds what each token may ask of the daemon, so that nobody who holds one can take what others need.
//
// Accounts has an Account for each token that calls. A request costs a look-up in a concurrent map and a few operations on the
// token's own account: there is no lock that requests of different tokens share. All of it is safe for concurrent use.
package quota

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"usaged/aggregator/event"
	"usaged/api/auth"
)

// Kind is what a quota is of.
type Kind string

// Kinds of quotas.
const (
	Events Kind = "events"
	Bytes  Kind = "bytes"
	IDs    Kind = "ids"
	Reads  Kind = "reads"
	Tails  Kind = "tails"
	// Memory is that of bodies on their way. It is not configured.
	Memory Kind = "memory"
)

// Kinds are all of them.
var Kinds = []Kind{Events, Bytes, IDs, Reads, Tails, Memory}

// Accounts are the accounts of all tokens.
type Accounts struct {
	config   atomic.Pointer[Config]
	accounts sync.Map // name → *Account
	n        atomic.Int64
	sweeping sync.Mutex
	now      func() time.Time
}

// NewAccounts returns accounts with limits. now is the clock, time.Now where nil.
func NewAccounts(cfg *Config, now func() time.Time) *Accounts {
	a := &Accounts{now: now}
	if now == nil {
		a.now = time.Now
	}
	a.config.Store(cfg)
	return a
}

// Configure puts other limits in force. Buckets begin full again where a limit has changed.
func (a *Accounts) Configure(cfg *Config) { a.config.Store(cfg) }

// Account is what one token has used.
type Account struct {
	terms atomic.Pointer[terms]
	used  atomic.Int64 // Unix seconds, see Accounts.sweep

	// Attachment is what the caller keeps with the account. It is set by the function that is given to Of, once.
	Attachment any
}

// terms are the limits of an account under one configuration.
type terms struct {
	config *Config
	role   auth.Role
	limits Limits

	events, bytes, ids *rate.Limiter // nil: no limit
	reads, tails       chan struct{} // one element for each that runs; nil: no limit
}

// The number of accounts is bounded by those who hold valid tokens. An issuer of JSON Web Tokens may have any number of users, so
// that accounts that nobody used for idleTime are dropped when there are many.
const (
	maxIdleAccounts = 10_000
	idleTime        = 10 * time.Minute
)

// Of returns the account of a token. attach makes the attachment of a new account; it may be called more than once.
func (a *Accounts) Of(who *auth.Token, attach func() any) *Account {
	now := a.now()
	found, ok := a.accounts.Load(who.Name)
	if !ok {
		var loaded bool
		fresh := &Account{Attachment: attach()}
		fresh.used.Store(now.Unix())
		if found, loaded = a.accounts.LoadOrStore(who.Name, fresh); !loaded && a.n.Add(1) > maxIdleAccounts {
			a.sweep(now)
		}
	}
	account := found.(*Account)
	if second := now.Unix(); account.used.Load() != second {
		account.used.Store(second)
	}
	cfg := a.config.Load()
	if t := account.terms.Load(); t == nil || t.config != cfg || t.role != who.Role {
		account.terms.Store(newTerms(cfg, who, t))
	}
	return account
}

// sweep drops accounts that nobody used for a while. A dropped account begins anew, by then with full buckets in any case.
func (a *Accounts) sweep(now time.Time) {
	if !a.sweeping.TryLock() {
		return
	}
	defer a.sweeping.Unlock()
	a.accounts.Range(func(name, value any) bool {
		account := value.(*Account)
		t := account.terms.Load()
		idle := now.Unix()-account.used.Load() > int64(idleTime/time.Second)
		if idle && (t == nil || len(t.reads)+len(t.tails) == 0) {
			a.accounts.Delete(name)
			a.n.Add(-1)
		}
		return true
	})
}

// newTerms returns the terms of a token, with the buckets of the earlier terms where the limits are the same.
func newTerms(cfg *Config, who *auth.Token, before *terms) *terms {
	t := &terms{config: cfg, role: who.Role, limits: cfg.of(who)}
	if before != nil && before.limits == t.limits {
		t.events, t.bytes, t.ids, t.reads, t.tails = before.events, before.bytes, before.ids, before.reads, before.tails
		return t
	}
	t.events = newBucket(t.limits.Events, event.MaxBatchEvents)
	t.bytes = newBucket(t.limits.Bytes, maxRequestBytes)
	t.ids = newBucket(t.limits.IDs, event.MaxBatchEvents)
	t.reads, t.tails = newSlots(t.limits.Reads), newSlots(t.limits.Tails)
	return t
}

// maxRequestBytes is the largest body, which must fit into a full bucket.
const maxRequestBytes = 8 << 20

// burstSeconds is for how long a silent token saves up.
const burstSeconds = 10

func newBucket(perSecond, atLeast int) *rate.Limiter {
	if perSecond == 0 {
		return nil
	}
	burst := max(min(perSecond, math.MaxInt32/burstSeconds)*burstSeconds, atLeast)
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// Limits returns the limits that are in force for the account.
func (a *Account) Limits() Limits { return a.terms.Load().limits }

// Spend takes n of a kind, and returns 0. Where the quota does not allow it now it takes nothing and returns after what time it
// will.
func (a *Account) Spend(kind Kind, n int, now time.Time) (wait time.Duration) {
	t := a.terms.Load()
	bucket := t.bucket(kind)
	if bucket == nil || n == 0 {
		return 0
	}
	r := bucket.ReserveN(now, min(n, bucket.Burst()))
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

// Begin counts one more answer of a kind, for which it waits until another has ended or ctx ends. Where it returns false there is
// no room; otherwise the caller calls end when the answer has ended.
func (a *Account) Begin(ctx context.Context, kind Kind) (end func(), ok bool) {
	slots := a.terms.Load().reads
	if kind == Tails {
		slots = a.terms.Load().tails
	}
	if slots == nil {
		return func() {}, true
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, true
	default:
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, true
	case <-ctx.Done():
		return nil, false
	}
}

func newSlots(limit int) chan struct{} {
	if limit == 0 {
		return nil
	}
	return make(chan struct{}, min(limit, maxSlots))
}

// maxSlots is more answers than the daemon gives at one time.
const maxSlots = 1_000

func (t *terms) bucket(kind Kind) *rate.Limiter {
	switch kind {
	case Events:
		return t.events
	case Bytes:
		return t.bytes
	default:
		return t.ids
	}
}
