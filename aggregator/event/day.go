package event

import (
	"fmt"
	"time"
)

// Day is a UTC calendar day, counted from 1970-01-01.
type Day int32

// DayOf returns the UTC day of t.
func DayOf(t time.Time) Day {
	secs := t.Unix()
	if secs < 0 {
		secs -= secondsPerDay - 1 // round towards the past, not towards zero
	}
	return Day(secs / secondsPerDay)
}

const secondsPerDay = 24 * 60 * 60

// ParseDay reads a day as String writes it.
func ParseDay(s string) (Day, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return 0, fmt.Errorf("day %q is not of the form 2006-01-02", s)
	}
	return DayOf(t), nil
}

// Time returns the day's first instant.
func (d Day) Time() time.Time { return time.Unix(int64(d)*secondsPerDay, 0).UTC() }

// String returns the day as 2006-01-02.
func (d Day) String() string { return d.Time().Format(time.DateOnly) }
