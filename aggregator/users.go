package aggregator

import (
	"fmt"

	"usaged/aggregator/event"
	"usaged/aggregator/store"
)

// maxKnownUsers bounds the users whose names and partitions are kept at hand.
const maxKnownUsers = 1 << 16

// users reads events and knows the partitions of their users. It belongs to one goroutine.
type users struct {
	partitions int
	known      map[string]userInfo
}

type userInfo struct {
	name      string
	partition int
}

func newUsers(partitions int) *users {
	return &users{partitions: partitions, known: map[string]userInfo{}}
}

// read reads an entry of the journal that was not blanked.
func (u *users) read(seq uint64, entry []byte, v *event.View) userInfo {
	if err := event.Parse(entry, v); err != nil {
		// The checksums were right, so it was written like this: by a newer version, or by a bug of ours.
		panic(fmt.Sprintf("aggregator: event %d of the journal cannot be read: %v", seq, err))
	}
	user, known := u.known[string(v.UserID)]
	if !known {
		if len(u.known) >= maxKnownUsers {
			clear(u.known)
		}
		user = userInfo{name: string(v.UserID), partition: store.PartitionOf(v.UserID, u.partitions)}
		u.known[user.name] = user
	}
	return user
}
