package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const day = 24 * time.Hour

// findShift reads all files for their times alone, where asked to, and says what it found.
func (im *importer) findShift(ctx context.Context) error {
	im.shiftDays = im.flags.shiftDays
	if !im.flags.shift {
		return nil
	}
	var last time.Time
	for _, src := range im.sources {
		t, err := im.lastTime(ctx, src)
		if err != nil {
			return err
		}
		if t.After(last) {
			last = t
		}
	}
	if last.IsZero() {
		fmt.Fprintln(im.session.stderr, "no event has a created_at: nothing is shifted")
		return nil
	}
	im.shiftDays = shiftDays(last, im.session.now())
	from, to := last.UTC(), last.UTC().AddDate(0, 0, im.shiftDays)
	fmt.Fprintf(im.session.stderr, "shifted by %d days: the last event moves from %s to %s\n",
		im.shiftDays, from.Format(time.RFC3339), to.Format(time.RFC3339))
	return nil
}

// shiftDays is the largest number of whole days by which last can move without passing now.
func shiftDays(last, now time.Time) int {
	days := int(now.Sub(last) / day)
	if last.Add(time.Duration(days) * day).After(now) {
		days-- // division rounds towards zero
	}
	return days
}

// lastTime is the latest created_at of a file. What cannot be read or mapped is left to the import itself to report.
func (im *importer) lastTime(ctx context.Context, src *source) (last time.Time, err error) {
	recs, closer, err := im.flags.open(src, func(int) {})
	if err != nil {
		if _, wrong := errors.AsType[usageError](err); wrong {
			return last, err
		}
		return last, nil
	}
	defer closer.Close()
	for {
		if err := context.Cause(ctx); err != nil {
			return last, err
		}
		rec, err := recs.next()
		if err != nil {
			return last, nil
		}
		events, err := im.mapping.events(ctx, src, rec)
		if err != nil {
			continue
		}
		for _, e := range events {
			if e.CreatedAt.After(last) {
				last = e.CreatedAt
			}
		}
	}
}
