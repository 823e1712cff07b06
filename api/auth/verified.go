package auth

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxVerified bounds the tokens whose verification is remembered. Beyond it all are forgotten at once, and verified again.
const maxVerified = 10_000

// verified remembers tokens that were verified, because a signature takes a hundred times as long as a look-up. What is
// remembered holds as long as the issuer's entry and keys are those by which it was verified, and the token has not
// expired. It is safe for concurrent use.
type verified struct {
	mu    sync.RWMutex
	known map[digest]verification
}

type verification struct {
	token   *Token
	expires time.Time // leeway included
	by      *issuer
	keys    *keys
}

// lookup returns who was found to present a token, nil where it has to be verified.
func (v *verified) lookup(presented digest, i *issuer, now time.Time) *Token {
	v.mu.RLock()
	defer v.mu.RUnlock()
	found := v.known[presented]
	if found.by != i || found.keys != i.keys.current.Load() || !now.Before(found.expires) {
		return nil
	}
	return found.token
}

func (v *verified) add(presented digest, found verification) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == nil || len(v.known) >= maxVerified {
		v.known = map[digest]verification{}
	}
	v.known[presented] = found
}

// digestOf is what a token is remembered by, so that no plaintext is kept.
func digestOf(presented string) digest { return sha256.Sum256([]byte(presented)) }
