package api_test

import (
	"context"
	"time"

	"usaged/aggregator"
	"usaged/aggregator/event"
	kept "usaged/aggregator/retention"
)

// lowered is a retention that was lowered from 30 days to 7.
type lowered struct{ err error }

func (l *lowered) Retention(context.Context) (*aggregator.Retention, error) {
	if l.err != nil {
		return nil, l.err
	}
	today := event.DayOf(noon)
	return &aggregator.Retention{
		State: kept.State{Days: 7, Kept: 30, Due: noon.Add(20 * time.Hour)}, From: today - 29, To: today - 10, Events: 1234, Raw: 99,
		Restored: &aggregator.Restored{
			RebuildState: aggregator.RebuildState{Phase: aggregator.RebuildRunning, Events: 5000, Done: 1200},
			Days:         3, From: today - 6, To: today - 4, Incomplete: []event.Day{today - 6},
		},
	}, nil
}

func (l *lowered) ApplyRetention(context.Context) (*aggregator.Retention, error) {
	return &aggregator.Retention{State: kept.State{Days: 7, Kept: 7}}, l.err
}
