package api_test

import (
	"time"

	"usaged/exporter/backfill"
)

// backfills is a Backfiller that has done one.
type backfills struct {
	err   error
	state backfill.State
}

func newBackfills() *backfills {
	return &backfills{state: backfill.State{Phase: backfill.Idle, Last: &backfill.Report{
		Finished: noon.Add(-time.Hour), Seconds: 1.5, Events: 1000, Types: 2, Samples: 5000, From: noon.Add(-48 * time.Hour), Until: noon.Add(-time.Hour),
	}}}
}

func (b *backfills) BackfillState() backfill.State { return b.state }

func (b *backfills) Backfill() error {
	if b.err != nil {
		return b.err
	}
	b.state.Phase, b.state.Events, b.state.Done, b.state.Error = backfill.Reading, 2000, 500, "the last attempt \"failed\""
	return nil
}
