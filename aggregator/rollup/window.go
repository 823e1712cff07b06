package rollup

import "usaged/aggregator/event"

// Window is a range of UTC days, both ends included.
type Window struct {
	From, To event.Day
}

// LastDays returns the window of n days that ends with today.
func LastDays(today event.Day, n int) Window {
	return Window{From: today - event.Day(n) + 1, To: today}
}

// Len returns the number of days.
func (w Window) Len() int { return int(w.To-w.From) + 1 }

// Days lists the days, oldest first.
func (w Window) Days() []event.Day {
	days := make([]event.Day, 0, w.Len())
	for d := w.From; d <= w.To; d++ {
		days = append(days, d)
	}
	return days
}
