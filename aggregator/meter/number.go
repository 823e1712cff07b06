package meter

import (
	"bytes"
	"strconv"
)

// ParseWhole reads a whole number from 0 to MaxTotal. Beside plain digits it takes the spellings of JSON that have no fraction
// left, as 120.0, 1.2e2 or 1000e-1: programs that keep numbers as floats write these for integers.
func ParseWhole(text []byte) (uint64, bool) {
	n := uint64(0)
	for _, c := range text {
		if c < '0' || c > '9' {
			return parseDecimal(text)
		}
		if n = n*10 + uint64(c-'0'); n > MaxTotal {
			return 0, false
		}
	}
	return n, len(text) > 0
}

// maxExponentDigits bounds the exponents that are read: one of five digits and more is of no whole number that has room here.
const maxExponentDigits = 4

// parseDecimal reads a number with a sign, a fraction or an exponent.
func parseDecimal(text []byte) (uint64, bool) {
	text, negative := bytes.CutPrefix(text, []byte("-"))
	exponent := 0
	mantissa := text
	if at := bytes.IndexAny(text, "eE"); at >= 0 {
		mantissa = text[:at]
		digits := bytes.TrimLeft(text[at+1:], "+-")
		var err error
		if exponent, err = strconv.Atoi(string(text[at+1:])); err != nil || len(digits) > maxExponentDigits {
			return 0, false
		}
	}
	whole, fraction, point := bytes.Cut(mantissa, []byte("."))
	if !isDigits(whole) || point && !isDigits(fraction) {
		return 0, false
	}
	digits := bytes.TrimLeft(append(bytes.Clone(whole), fraction...), "0")
	exponent -= len(fraction)
	trimmed := bytes.TrimRight(digits, "0")
	exponent += len(digits) - len(trimmed)
	switch {
	case len(trimmed) == 0:
		return 0, true
	case negative || exponent < 0 || len(trimmed)+exponent > len("9007199254740992"):
		return 0, false
	}
	return ParseWhole(append(trimmed, bytes.Repeat([]byte("0"), exponent)...))
}

func isDigits(text []byte) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(text) > 0
}
