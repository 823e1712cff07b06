// Package ids decides which events are one event that was sent more than once: by the ids that their senders gave them.
//
// A [Scope] says what an id names, and so which digests an event claims in the store. Two events with a digest in common that
// were accepted less than [store.DuplicateWindow] apart are one event, see [store.Near]: the second is a duplicate. That an event was found
// to be a duplicate is a verdict. It is journalled before the batch without the event is applied, so that reading the
// journal again, after a crash or for a rebuild, gives the same answer; [Verdicts] has those that may still be asked for.
//
// A Scope is a value and safe for concurrent use, and so are Verdicts. Digests belong to one goroutine.
//
//	digests := scope.Of(&view)
//	if verdicts.Has(seq) || digests.Near(accepted, view.AcceptedMillis) {
//		// a duplicate
//	}
//	accepted[digests.Claim] = view.AcceptedMillis
package ids

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"usaged/aggregator/durable"
	"usaged/aggregator/event"
	"usaged/aggregator/store"
)

// Scope says what an id names.
//
// An id names one event of one user and event type, and those that role user sent are apart (see store.DigestOf). In older
// versions an id named one event of its user whatever the type. Where a data directory or the store is of that time, three
// kinds of claims meet, and no event may be counted twice because its first copy was claimed in another way:
//
//	event                claims           must not be taken either
//	of this version      its own digest   the unscoped digest, until unscopedUntil
//	of an older version  the unscoped     its digest as a service's id, and as a user's
//
// So during this time an id that was used before the upgrade names one event whatever its type, as it did when it was claimed.
type Scope struct {
	// unscopedUntil is the acceptance, in milliseconds since 1970, from which on no unscoped claim can be near enough.
	unscopedUntil int64
}

// unscopedWindow is how long after the first start of this version unscoped claims are compared: the day in which two
// acceptances are one event, and two more for other replicas to be upgraded.
const unscopedWindow = store.ClaimLifetime

// Unscoped is the scope in which ids are always compared with those of older versions too.
func Unscoped() Scope { return Scope{unscopedUntil: math.MaxInt64} }

// scopeFile is <data>/ids.json. It is written once, before the first event of this version is accepted. A crash before that
// only makes the window begin later.
type scopeFile struct {
	// ScopedSince is when this version was first started on the data directory, zero where nothing older can be near.
	ScopedSince time.Time `json:"scoped_since,omitzero"`
}

var scopeFormat = durable.Format{Version: 2, Plain: 1}

// OpenScope reads since when ids have their present scope. fresh says that neither the data directory nor its store can hold
// anything of an older version.
func OpenScope(dir string, fresh bool, now time.Time) (Scope, error) {
	path := filepath.Join(dir, "ids.json")
	var file scopeFile
	_, err := scopeFormat.LoadJSON(path, &file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if !fresh {
			file.ScopedSince = now.UTC()
		}
		if err := scopeFormat.SaveJSON(path, file, 0o640); err != nil {
			return Scope{}, fmt.Errorf("write %s: %w", path, err)
		}
	case err != nil:
		return Scope{}, fmt.Errorf("%w: remove it, and usaged will compare ids with those of older versions for three days", err)
	}
	if file.ScopedSince.IsZero() {
		return Scope{}, nil
	}
	return Scope{file.ScopedSince.Add(unscopedWindow).UnixMilli()}, nil
}

// Digests are what an event with a client's id claims, and what must not be taken either.
type Digests struct {
	Claim  [16]byte
	others [2][16]byte
	n      int // of others
}

// Of returns the digests of an event.
func (s Scope) Of(v *event.View) (d Digests) {
	switch {
	case !v.TypedID:
		d.Claim = store.UnscopedDigestOf(v.UserID, v.ID)
		for _, space := range []store.Namespace{store.ServiceIDs, store.UserIDs} {
			d.others[d.n] = store.DigestOf(space, v.UserID, v.Type, v.ID)
			d.n++
		}
		return d
	case v.Bound:
		d.Claim = store.DigestOf(store.UserIDs, v.UserID, v.Type, v.ID)
	default:
		d.Claim = store.DigestOf(store.ServiceIDs, v.UserID, v.Type, v.ID)
	}
	if v.AcceptedMillis < s.unscopedUntil {
		d.others[0] = store.UnscopedDigestOf(v.UserID, v.ID)
		d.n = 1
	}
	return d
}

// Near says whether one of the digests was accepted within a day of an event. last has the last acceptance of each.
func (d *Digests) Near(last map[[16]byte]int64, acceptedMillis int64) bool {
	if at, ok := last[d.Claim]; ok && store.Near(at, acceptedMillis) {
		return true
	}
	for _, other := range d.others[:d.n] {
		if at, ok := last[other]; ok && store.Near(at, acceptedMillis) {
			return true
		}
	}
	return false
}

// Others returns the digests that must not be taken either.
func (d *Digests) Others() [][16]byte { return d.others[:d.n] }

// VerifiableFor is how long after its acceptance an id can still be checked for duplicates: as long as the store is sure to
// have the claims of all events that were accepted up to a duplicate window earlier.
const VerifiableFor = store.ClaimLifetime - store.DuplicateWindow
