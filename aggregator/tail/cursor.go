package tail

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Cursor is a place in the journal of one data directory: behind one event. To clients its text is opaque:
//
//	AZOhsgAAcACAAAAAAAAAAQ.1234567.0a1b2c
//	│                      │       └ check: the low 24 bits of the time, in Unix milliseconds, at which the event was committed
//	│                      └ sequence number of the event, 0 before the first
//	└ id of the journal, base64url
//
// The id is the journal's own, which never changes, and not the one under which its events are counted. A data directory
// that was restored from a backup, or copied, gives the same id and numbers to other events: the check tells them apart.
type Cursor struct {
	journal uuid.UUID
	seq     uint64
	check   uint32
}

const (
	cursorIDBytes  = 22 // 16 bytes in base64url
	checkBits      = 24
	cursorMaxBytes = cursorIDBytes + 1 + 20 + 1 + checkBits/4
)

var errCursor = errors.New("not a cursor: give one back as it came, the cursor of an event or of a progress line")

// ParseCursor reads the text of a cursor. There is one text for each cursor.
func ParseCursor(text string) (Cursor, error) {
	var c Cursor
	id, rest, ok := strings.Cut(text, ".")
	number, check, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 || len(text) > cursorMaxBytes || len(id) != cursorIDBytes || len(check) != checkBits/4 {
		return c, errCursor
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(c.journal[:], []byte(id)); err != nil || n != len(c.journal) {
		return c, errCursor
	}
	seq, err := strconv.ParseUint(number, 10, 63) // so that one more never overflows
	if err != nil {
		return c, errCursor
	}
	bits, err := strconv.ParseUint(check, 16, checkBits)
	if err != nil {
		return c, errCursor
	}
	c.seq, c.check = seq, uint32(bits)
	if c.String() != text {
		return Cursor{}, errCursor
	}
	return c, nil
}

// String returns the text of the cursor.
func (c Cursor) String() string { return string(c.AppendTo(nil)) }

// AppendTo appends the text of the cursor.
func (c Cursor) AppendTo(dst []byte) []byte {
	dst = base64.RawURLEncoding.AppendEncode(dst, c.journal[:])
	dst = append(dst, '.')
	dst = strconv.AppendUint(dst, c.seq, 10)
	dst = append(dst, '.')
	var check [4]byte
	binary.BigEndian.PutUint32(check[:], c.check)
	return hex.AppendEncode(dst, check[1:])
}

// checkOf is the check of an event that was committed at a time.
func checkOf(at time.Time) uint32 { return uint32(at.UnixMilli()) & (1<<checkBits - 1) }

var (
	// ErrCursorGone says that events behind a cursor have left the journal.
	ErrCursorGone = errors.New("events behind the cursor are no longer in the journal")
	// ErrForeignCursor says that a cursor is of another journal, or of another state of this one: from before it was
	// restored from a backup, or from a copy.
	ErrForeignCursor = errors.New("the cursor is not of this journal")
)

// belongs returns an error that is ErrForeignCursor where the cursor is of another journal or ahead of this one's end.
func (c Cursor) belongs(journalID string, end uint64) error {
	switch {
	case c.journal.String() != journalID:
		return fmt.Errorf("%w: it is of %s, this is %s", ErrForeignCursor, c.journal, journalID)
	case c.seq > end:
		return fmt.Errorf("%w: it is behind event %d, and the last is %d", ErrForeignCursor, c.seq, end)
	}
	return nil
}
