package aggregator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/store"
)

// An id names one event of one user and event type, and those that role user sent are apart (see store.DigestOf). In older
// versions an id named one event of its user whatever the type. Where a data directory or the store is of that time, three
// kinds of claims meet, and no event may be counted twice because its first copy was claimed in another way:
//
//	event                claims           must not be taken either
//	of this version      its own digest   the unscoped digest, until unscopedUntil
//	of an older version  the unscoped     its digest as a service's id, and as a user's
//
// So during this time an id that was used before the upgrade names one event whatever its type, as it did when it was claimed.
type idScope struct {
	// unscopedUntil is the acceptance, in milliseconds since 1970, from which on no unscoped claim can be near enough.
	unscopedUntil int64
}

// unscopedWindow is how long after the first start of this version unscoped claims are compared: the day in which two
// acceptances are one event, and two more for other replicas to be upgraded.
const unscopedWindow = store.ClaimLifetime

// idScopeFile is <data>/ids.json. It is written once, before the first event of this version is accepted. A crash before that
// only makes the window begin later.
type idScopeFile struct {
	// ScopedSince is when this version was first started on the data directory, zero where nothing older can be near.
	ScopedSince time.Time `json:"scoped_since,omitzero"`
}

var idScopeFormat = durable.Format{Version: 2, Plain: 1}

// openIDScope reads since when ids have their present scope. fresh says that neither the data directory nor its store can hold
// anything of an older version.
func openIDScope(dir string, fresh bool, now time.Time) (idScope, error) {
	path := filepath.Join(dir, "ids.json")
	var file idScopeFile
	_, err := idScopeFormat.LoadJSON(path, &file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if !fresh {
			file.ScopedSince = now.UTC()
		}
		if err := idScopeFormat.SaveJSON(path, file, 0o640); err != nil {
			return idScope{}, fmt.Errorf("write %s: %w", path, err)
		}
	case err != nil:
		return idScope{}, fmt.Errorf("%w: remove it, and usaged will compare ids with those of older versions for three days", err)
	}
	if file.ScopedSince.IsZero() {
		return idScope{}, nil
	}
	return idScope{file.ScopedSince.Add(unscopedWindow).UnixMilli()}, nil
}

// idDigests are what an event with a client's id claims, and what must not be taken either.
type idDigests struct {
	claim  [16]byte
	others [2][16]byte
	n      int // of others
}

// of returns the digests of an event.
func (s idScope) of(v *event.View) (d idDigests) {
	switch {
	case !v.TypedID:
		d.claim = store.UnscopedDigestOf(v.UserID, v.ID)
		for _, space := range []store.Namespace{store.ServiceIDs, store.UserIDs} {
			d.others[d.n] = store.DigestOf(space, v.UserID, v.Type, v.ID)
			d.n++
		}
		return d
	case v.Bound:
		d.claim = store.DigestOf(store.UserIDs, v.UserID, v.Type, v.ID)
	default:
		d.claim = store.DigestOf(store.ServiceIDs, v.UserID, v.Type, v.ID)
	}
	if v.AcceptedMillis < s.unscopedUntil {
		d.others[0] = store.UnscopedDigestOf(v.UserID, v.ID)
		d.n = 1
	}
	return d
}

// near says whether one of the digests was accepted within a day of an event. last has the last acceptance of each.
func (d *idDigests) near(last map[[16]byte]int64, acceptedMillis int64) bool {
	if at, ok := last[d.claim]; ok && within(at, acceptedMillis) {
		return true
	}
	for _, other := range d.others[:d.n] {
		if at, ok := last[other]; ok && within(at, acceptedMillis) {
			return true
		}
	}
	return false
}
