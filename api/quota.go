package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"usaged/aggregator/event"
	"usaged/api/auth"
	"usaged/api/quota"
)

// account returns the account of a token. Its attachment is the token's share of the memory for bodies.
func (a *API) account(who *auth.Token) *quota.Account {
	return a.cfg.Quotas.Of(who, func() any { return a.bodies.newShare(who.Role == auth.RoleUser) })
}

func shareOf(account *quota.Account) *share {
	s, _ := account.Attachment.(*share)
	return s
}

// spend takes n of a kind from a token's quota, or refuses the request.
func (a *API) spend(who *auth.Token, account *quota.Account, kind quota.Kind, n int) error {
	wait := account.Spend(kind, n, time.Now())
	if wait == 0 {
		return nil
	}
	p := refusef(quotaExceeded, "this token has sent more %s than its quota allows: send the same again after the time that Retry-After says", kind)
	p.retrySeconds = int((wait + time.Second - 1) / time.Second)
	a.metrics.quotas.exceeded(who, kind)
	return p
}

// spendBatch takes the events of a batch and their ids from a token's quotas, or refuses it as a whole.
func (a *API) spendBatch(who *auth.Token, account *quota.Account, batch *event.Batch) error {
	if err := a.spend(who, account, quota.Events, batch.N); err != nil {
		a.metrics.rejectedEvents[quotaExceeded].Add(batch.N)
		return err
	}
	if err := a.spend(who, account, quota.IDs, batch.IDs); err != nil {
		a.metrics.rejectedEvents[quotaExceeded].Add(batch.N)
		return err
	}
	return a.judgeNames(who, account, batch)
}

// judgeNames has the names of a batch judged, where those of the token are limited. What was spent is durable before the events are.
func (a *API) judgeNames(who *auth.Token, account *quota.Account, batch *event.Batch) error {
	limits := account.Limits()
	if limits.NewTypes+limits.NewLabels+limits.NewReferences == 0 {
		return nil
	}
	meters, now := a.cfg.Reader.Meters(), a.cfg.Now()
	exceeded := func(kind quota.Kind) { a.metrics.quotas.namesExceeded(who, kind) }
	err := batch.Judge(func(v *event.View) event.Excess { return a.cfg.Names.Judge(v, who, limits, meters, now, exceeded) })
	if err != nil {
		return err
	}
	if err := a.cfg.Names.Save(); err != nil { // the quota of a day would be larger after a restart, and nothing else
		a.metrics.namesUnsaved.Inc()
		a.log.Warn("what tokens have spent of their new names is not durable", "err", err)
	}
	return nil
}

// noteRefusal counts a body that was refused because the sender's share of the memory is taken.
func (a *API) noteRefusal(who *auth.Token, err error) {
	if p, ok := errors.AsType[*problem](err); ok && p.class == quotaExceeded {
		a.metrics.quotas.exceeded(who, quota.Memory)
	}
}

// beginRead gives a token one of its places for answers that are computed, for which it waits as long as an answer may take.
func (a *API) beginRead(r *http.Request, who *auth.Token) (end func(), err error) {
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	end, ok := a.account(who).Begin(ctx, quota.Reads)
	if ok {
		return end, nil
	}
	a.metrics.quotas.exceeded(who, quota.Reads)
	return nil, refuse(quotaExceeded, "this token asks for more answers at one time than its quota allows: wait for those that are being computed")
}

// beginTail gives a token one of its places for streams of events.
func (a *API) beginTail(who *auth.Token) (end func(), err error) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	end, ok := a.account(who).Begin(ended, quota.Tails)
	if ok {
		return end, nil
	}
	a.metrics.quotas.exceeded(who, quota.Tails)
	return nil, refuse(quotaExceeded, "this token has as many streams of events open as its quota allows: close one")
}

// quotaCounters count refusals by the name of the token, and of JSON Web Tokens by the name of their issuer. There are at most
// maxQuotaTokens names; further ones are counted under event.Other.
type quotaCounters struct {
	set *metrics.Set

	mu    sync.Mutex
	names map[string]struct{}
}

const maxQuotaTokens = 200

func (c *quotaCounters) exceeded(who *auth.Token, kind quota.Kind) {
	c.counter(c.name(who), kind).Inc()
}

func (c *quotaCounters) namesExceeded(who *auth.Token, kind quota.Kind) {
	c.namesCounter(c.name(who), kind).Inc()
}

// name is the name under which a token is counted.
func (c *quotaCounters) name(who *auth.Token) string {
	name := who.Name
	if issuer, _, found := strings.Cut(name, "/"); found {
		name = issuer
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.names[name]; !known {
		if len(c.names) >= maxQuotaTokens {
			name = event.Other
		} else {
			c.names[name] = struct{}{}
		}
	}
	return name
}

func (c *quotaCounters) namesCounter(name string, kind quota.Kind) *metrics.Counter {
	return c.set.GetOrCreateCounter(fmt.Sprintf("usaged_names_over_quota_total{token=%q,quota=%q}", name, kind))
}

func (c *quotaCounters) counter(name string, kind quota.Kind) *metrics.Counter {
	return c.set.GetOrCreateCounter(fmt.Sprintf("usaged_quota_exceeded_total{token=%q,quota=%q}", name, kind))
}
