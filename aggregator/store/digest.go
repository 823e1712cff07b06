package store

import (
	"crypto/sha256"
	"encoding/binary"
)

// DigestOf returns the digest that stands for one user's event id in claims: the first 16 bytes of SHA-256 over the
// user's length (4 bytes, big endian), the user and the id. A cryptographic hash, so that nobody can make two ids collide.
func DigestOf(userID, id []byte) [16]byte {
	var stack [512]byte
	buf := binary.BigEndian.AppendUint32(stack[:0], uint32(len(userID)))
	buf = append(buf, userID...)
	buf = append(buf, id...)
	sum := sha256.Sum256(buf)
	return [16]byte(sum[:16])
}
