package event

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// AppendJSON appends the members of the event as the JSON object in which it could be sent, without the braces: id, user_id,
// event_type, metadata, source where there is one, and created_at. Strings are written as they were accepted, and metadata in
// the order in which it was sent. producer and seq are as in Event. It allocates nothing but what dst grows by.
func (v *View) AppendJSON(dst []byte, producer string, seq uint64) []byte {
	dst = append(dst, `"id":`...)
	if len(v.ID) > 0 {
		dst = AppendQuoted(dst, v.ID)
	} else {
		dst = append(dst, '"')
		dst = appendServerID(dst, producer, seq, v.AcceptedMillis)
		dst = append(dst, '"')
	}
	dst = append(dst, `,"user_id":`...)
	dst = AppendQuoted(dst, v.UserID)
	dst = append(dst, `,"event_type":`...)
	dst = AppendQuoted(dst, v.Type)
	dst = append(dst, `,"metadata":{`...)
	dst = v.appendMetadata(dst)
	dst = append(dst, '}')
	if len(v.Source) > 0 {
		dst = append(dst, `,"source":`...)
		dst = AppendQuoted(dst, v.Source)
	}
	dst = append(dst, `,"created_at":"`...)
	return append(AppendTime(dst, v.CreatedNanos), '"')
}

func (v *View) appendMetadata(dst []byte) []byte {
	r := reader{buf: v.meta}
	for i := range v.pairs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendQuoted(dst, r.bytes())
		dst = append(dst, ':')
		dst = AppendQuoted(dst, r.bytes())
	}
	return dst
}

// AppendQuoted appends text as a JSON string. What needs no escape, which is nearly everything, is copied; what is not ASCII is left
// to jsontext, although accepted strings are valid UTF-8: a journal may be of another version. Characters that are not seen are escaped, see
// Hidden.
func AppendQuoted(dst, text []byte) []byte {
	for _, c := range text {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := jsontext.AppendQuote(nil, text) // invalid UTF-8 becomes U+FFFD
			return append(dst, VisibleJSON(quoted)...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

// AppendTime appends Unix nanoseconds as RFC 3339 in UTC, with as many digits of the second as there are.
func AppendTime(dst []byte, nanos int64) []byte {
	secs, frac := nanos/int64(time.Second), nanos%int64(time.Second)
	if nanos < 0 || secs >= firstOfYear10000 {
		return time.Unix(0, nanos).UTC().AppendFormat(dst, time.RFC3339Nano)
	}
	year, month, day := time.Unix(secs, 0).UTC().Date()
	dst = appendDigits(dst, year, 4)
	dst = append(dst, '-')
	dst = appendDigits(dst, int(month), 2)
	dst = append(dst, '-')
	dst = appendDigits(dst, day, 2)
	dst = append(dst, 'T')
	ofDay := int(secs % secondsPerDay)
	dst = appendDigits(dst, ofDay/3600, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, ofDay/60%60, 2)
	dst = append(dst, ':')
	dst = appendDigits(dst, ofDay%60, 2)
	if frac > 0 {
		dst = append(dst, '.')
		dst = appendDigits(dst, int(frac), 9)
		for dst[len(dst)-1] == '0' {
			dst = dst[:len(dst)-1]
		}
	}
	return append(dst, 'Z')
}

const firstOfYear10000 = 253_402_300_800

// ParseTime reads a time of RFC 3339. It refuses what package time takes beyond that (go.dev/issue/54580): an hour of one digit, a
// comma before the fraction, an offset of 24 hours or with 60 minutes. It takes what package time refuses: t and z in lower case
// (section 5.6), and a leap second (section 5.7), which is the last moment of its minute, so that its day is the right one.
func ParseTime(text []byte) (t time.Time, ok bool) {
	if t, ok = parseTime(text); ok || len(text) < len("2006-01-02t15:04:05z") {
		return t, ok
	}
	const place = len("2006-01-02T15:04:")
	upper := bytes.ToUpper(text)
	if !bytes.Equal(upper[place:place+2], []byte("60")) {
		return parseTime(upper)
	}
	copy(upper[place:], "59")
	t, ok = parseTime(upper)
	if utc := t.UTC(); !ok || utc.Hour() != 23 || utc.Minute() != 59 {
		return t, false // leap seconds are the last of a day of UTC
	}
	return t.Truncate(time.Second).Add(time.Second - time.Nanosecond), true
}

func parseTime(text []byte) (t time.Time, ok bool) {
	if t.UnmarshalText(text) != nil || text[len("2006-01-02T1")] == ':' || text[len("2006-01-02T15:04:05")] == ',' {
		return t, false
	}
	if text[len(text)-1] == 'Z' {
		return t, true
	}
	zone := string(text[len(text)-len("07:00"):])
	return t, zone < "24" && zone[len("07:"):] < "60"
}

// appendDigits appends n with leading zeros.
func appendDigits(dst []byte, n, width int) []byte {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], int64(n), 10)
	for range width - len(text) {
		dst = append(dst, '0')
	}
	return append(dst, text...)
}

// appendServerID appends the id that ServerID returns.
func appendServerID(dst []byte, producer string, seq uint64, acceptedMillis int64) []byte {
	var in [64]byte
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(append(in[:0], producer...), seq))
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(acceptedMillis)<<16)
	copy(id[6:], sum[:10])
	id[6] = id[6]&0x0f | 0x70 // version 7
	id[8] = id[8]&0x3f | 0x80 // the variant of RFC 9562
	dst = hex.AppendEncode(dst, id[:4])
	for _, part := range [][]byte{id[4:6], id[6:8], id[8:10], id[10:]} {
		dst = append(dst, '-')
		dst = hex.AppendEncode(dst, part)
	}
	return dst
}
