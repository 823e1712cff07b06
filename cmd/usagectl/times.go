package main

import (
	stdjson "encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"usaged/aggregator/event"
)

// layouts of created_at beside RFC 3339, as databases and spreadsheets write them. They are read as UTC.
var layouts = []string{
	"2006-01-02 15:04:05Z07:00",
	"2006-01-02T15:04:05",
	"2006-01-02 15:04:05",
	time.DateOnly,
}

// parseTime reads created_at: RFC 3339, one of layouts, a date or time of digits alone, or Unix seconds with or without a fraction.
// Nothing, null and the empty string are the zero time.
func parseTime(value any, now time.Time) (time.Time, error) {
	switch v := value.(type) {
	case nil:
		return time.Time{}, nil
	case stdjson.Number:
		return numberTime(v.String(), now)
	case int:
		return numberTime(strconv.Itoa(v), now)
	case float64:
		return numberTime(strconv.FormatFloat(v, 'f', -1, 64), now)
	case *big.Int:
		return numberTime(v.String(), now)
	case string:
		return parseTimeText(strings.TrimSpace(v), now)
	}
	return time.Time{}, reject("/created_at", "created_at is %s where a time is due", kindOf(value))
}

func parseTimeText(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, ok := event.ParseTime([]byte(text)); ok {
		return checkYear(t, text)
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return checkYear(t, text)
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return checkYear(t, text)
		}
	}
	if strings.Trim(text, "0123456789.eE+-") == "" {
		return numberTime(text, now)
	}
	return time.Time{}, badTime(text)
}

// digitLayouts are times of digits alone, by their number.
var digitLayouts = map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}

// Unix seconds have nine or ten digits from March 1973 to November 2286.
const (
	minUnixSeconds = 100_000_000
	maxUnixSeconds = 9_999_999_999
	// Spreadsheets write a time as days since firstSpreadsheetDay. These are the numbers of 1970 and of 2173.
	minDayNumber = 25_569
	maxDayNumber = 99_999
)

// firstSpreadsheetDay is the day 0 of spreadsheets, which hold 1900 for a leap year.
var firstSpreadsheetDay = time.Date(1899, 12, 30, 0, 0, 0, 0, time.UTC)

// numberTime reads a number. Most numbers could be more than one thing, and a wrong guess moves months of events into one day, so that only
// those are taken which can be meant in one way alone: digits that spell a date, day numbers of spreadsheets and Unix seconds that do not lie ahead.
func numberTime(text string, now time.Time) (time.Time, error) {
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(number, 0) {
		return time.Time{}, badTime(text)
	}
	digits, fraction, _ := strings.Cut(text, ".")
	if layout, ok := digitLayouts[len(digits)]; ok && strings.Trim(fraction, "0") == "" {
		if t, err := time.Parse(layout, digits); err == nil && t.Year() >= 1900 && t.Year() < 2200 {
			return t, nil
		}
	}
	var t time.Time
	switch {
	case number >= minDayNumber && number <= maxDayNumber:
		whole, part := math.Modf(number)
		t = firstSpreadsheetDay.AddDate(0, 0, int(whole)).Add(time.Duration(part * float64(day)).Round(time.Millisecond))
	case number >= 0 && number < minDayNumber:
		return time.Time{}, reject("/created_at", "created_at %.60s is no time, and may be a year: write it as 2026-11-23 or 2026-11-23T10:00:00Z, "+
			"or convert it with --jq", text)
	case number > maxUnixSeconds:
		return time.Time{}, reject("/created_at", "created_at %.60s is too large for Unix seconds: it must be in seconds, so divide milliseconds by 1000 with --jq", text)
	case number < minUnixSeconds:
		return time.Time{}, badTime(text)
	default:
		t = unixTime(text, number)
	}
	if t.After(now.Add(day)) {
		return time.Time{}, reject("/created_at", "created_at %.60s would be %s as a number, which lies ahead: write it as 2026-11-23T10:00:00Z, or convert it with --jq",
			text, t.Format(time.DateOnly))
	}
	return t, nil
}

func badTime(text string) error {
	return reject("/created_at", "created_at %.60q is not RFC 3339 (2026-11-23T10:00:00Z), a date, or Unix seconds", text)
}

// unixTime reads seconds, exact to the microsecond where they have a fraction or an exponent.
func unixTime(text string, number float64) time.Time {
	if whole, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(whole, 0).UTC()
	}
	return time.UnixMicro(int64(math.Round(number * 1e6))).UTC()
}

// checkYear refuses what RFC 3339 cannot say.
func checkYear(t time.Time, text string) (time.Time, error) {
	if year := t.Year(); year < 1 || year > 9999 {
		return time.Time{}, reject("/created_at", "created_at %.60s lies in the year %d, which RFC 3339 cannot say", text, year)
	}
	return t, nil
}
