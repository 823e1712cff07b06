package store

import (
	"crypto/sha256"
	"encoding/binary"
)

// Namespace keeps apart the ids of those who could guess each other's. The same id in two namespaces names two events.
type Namespace byte

const (
	// ServiceIDs are the ids that the roles producer and admin send.
	ServiceIDs Namespace = 0
	// UserIDs are the ids that the role user sends. They are apart, so that no person can take an id that a service is going to
	// use for this person, whose event would then be taken for a duplicate.
	UserIDs Namespace = 1
)

// scoped begins what DigestOf hashes. UnscopedDigestOf begins with the length of a user id, which is never as large, so that
// the two never hash the same bytes.
const scoped = 0xffffff00

// DigestOf returns the digest that stands for an event id in claims. An id names one event of one namespace, user and type.
// The digest is the first 16 bytes of SHA-256 over 0xffffff and the namespace (4 bytes), the lengths of user and type (4 bytes
// each, big endian), the user, the type and the id. A cryptographic hash, so that nobody can make two ids collide.
func DigestOf(space Namespace, userID, eventType, id []byte) [16]byte {
	var stack [1024]byte
	buf := binary.BigEndian.AppendUint32(stack[:0], scoped|uint32(space))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(userID)))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(eventType)))
	buf = append(buf, userID...)
	buf = append(buf, eventType...)
	buf = append(buf, id...)
	sum := sha256.Sum256(buf)
	return [16]byte(sum[:16])
}

// UnscopedDigestOf returns the digest of an id of older versions, in which an id named one event of a user whatever its type
// and whoever sent it: over the length of the user (4 bytes, big endian), the user and the id.
func UnscopedDigestOf(userID, id []byte) [16]byte {
	var stack [512]byte
	buf := binary.BigEndian.AppendUint32(stack[:0], uint32(len(userID)))
	buf = append(buf, userID...)
	buf = append(buf, id...)
	sum := sha256.Sum256(buf)
	return [16]byte(sum[:16])
}
