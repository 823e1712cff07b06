package event

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Hidden says whether a character does something to a terminal or to the text around it instead of being seen: control characters of
// both sets, bidirectional controls and other formatting, and the separators of lines and paragraphs.
func Hidden(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r == 0x7f
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Visible is a text with its hidden characters written as \u001b, which is for people and cannot be read back for certain.
func Visible(text string) string {
	if !strings.ContainsFunc(text, Hidden) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if Hidden(r) {
			b.Write(appendEscape(nil, r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// VisibleJSON is a JSON text with the hidden characters of its strings escaped: whoever reads it as JSON reads the same, and whoever
// prints it sees them. The blanks between its tokens stay. The text is returned itself where it has none.
func VisibleJSON(text []byte) []byte {
	var out []byte
	done := 0
	for i := 0; i < len(text); {
		if c := text[i]; c < 0x7f { // JSON strings have no raw control characters below
			i++
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		if Hidden(r) {
			out = appendEscape(append(out, text[done:i]...), r)
			done = i + size
		}
		i += size
	}
	if done == 0 {
		return text
	}
	return append(out, text[done:]...)
}

// appendEscape appends a character as JSON escapes it.
func appendEscape(dst []byte, r rune) []byte {
	if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
		return fmt.Appendf(dst, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(dst, `\u%04x`, r)
}
