package main

import (
	stdjson "encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// layouts of created_at beside RFC 3339, as databases and spreadsheets write them. They are read as UTC.
var layouts = []string{
	"2006-01-02 15:04:05Z07:00",
	"2006-01-02T15:04:05",
	"2006-01-02 15:04:05",
	time.DateOnly,
}

// parseTime reads created_at: RFC 3339, one of layouts, or Unix seconds with or without a fraction. Nothing, null and
// the empty string are the zero time.
func parseTime(value any) (time.Time, error) {
	switch v := value.(type) {
	case nil:
		return time.Time{}, nil
	case stdjson.Number:
		return unixTime(v.String())
	case int:
		return unixTime(strconv.Itoa(v))
	case float64:
		return unixTime(strconv.FormatFloat(v, 'f', -1, 64))
	case *big.Int:
		return unixTime(v.String())
	case string:
		return parseTimeText(strings.TrimSpace(v))
	}
	return time.Time{}, reject("/created_at", "created_at is %s where a time is due", kindOf(value))
}

func parseTimeText(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return checkYear(t, text)
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return checkYear(t, text)
		}
	}
	if strings.Trim(text, "0123456789.") == "" {
		return unixTime(text)
	}
	return time.Time{}, badTime(text)
}

func badTime(text string) error {
	return reject("/created_at", "created_at %.60q is not RFC 3339 (2026-11-23T10:00:00Z), a date, or Unix seconds", text)
}

// unixTime reads seconds, exact to the microsecond where they came as a float.
func unixTime(text string) (time.Time, error) {
	seconds, fraction, _ := strings.Cut(text, ".")
	if whole, err := strconv.ParseInt(seconds, 10, 64); err == nil && fraction == "" {
		return checkYear(time.Unix(whole, 0).UTC(), text)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < -1e12 || f > 1e12 {
		return time.Time{}, badTime(text)
	}
	return checkYear(time.UnixMicro(int64(math.Round(f*1e6))).UTC(), text)
}

// checkYear refuses what RFC 3339 cannot say, such as milliseconds taken for seconds.
func checkYear(t time.Time, text string) (time.Time, error) {
	if year := t.Year(); year < 1 || year > 9999 {
		return time.Time{}, reject("/created_at", "created_at %.60s lies in the year %d: it must be in seconds", text, year)
	}
	return t, nil
}
