package remotewrite_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"usaged/exporter/remotewrite/remotewritetest"
)

// TestLateSamplesDuringReloads appends samples that are late all the while the settings of the endpoint change. Every one is sent.
func TestLateSamplesDuringReloads(t *testing.T) {
	t.Parallel()
	w, receiver := newWorld(t), remotewritetest.New(t)
	e := endpoint(t, receiver.URL, remoteapi.WriteV1MessageType)
	w.apply(e)
	began := w.clock.Load()
	w.append(began, 1)
	w.past()
	w.await(receiver, 1, 1)
	const reloads = 300
	appended := make(chan struct{})
	go func() {
		defer close(appended)
		for i := range int64(reloads) { // each is older than what has been sent
			w.append(began-i-1, 1)
		}
	}()
	for i := range reloads {
		changed := *e
		changed.RemoteTimeout = model.Duration(time.Minute + time.Duration(i)*time.Second)
		w.apply(&changed)
	}
	<-appended
	w.past()
	receiver.Await(t, "late samples", func() bool { return len(receiver.Samples()[series(0)]) == reloads+1 })
}

// TestExemplarsOfManySeries has more series with exemplars than are remembered, each for a moment. New ones are still sent.
func TestExemplarsOfManySeries(t *testing.T) {
	t.Parallel()
	w, receiver := newWorld(t), remotewritetest.New(t)
	w.apply(endpoint(t, receiver.URL, remoteapi.WriteV1MessageType))
	last := ""
	for round := range 5 {
		app, ok := w.tap.AppenderV2(context.Background()).(interface {
			storage.AppenderV2
			storage.ExemplarAppenderV2
		})
		if !ok {
			t.Fatal("the appender takes no exemplars")
		}
		for i := range 10_000 {
			ls := labels.FromStrings("__name__", "m", "i", fmt.Sprint(round, i))
			if _, err := app.Append(0, ls, 0, w.clock.Load(), 1, nil, nil, storage.AOptions{}); err != nil {
				t.Fatal(err)
			}
			e := exemplar.Exemplar{Labels: labels.FromStrings("trace", "x"), Value: 1, Ts: w.clock.Load(), HasTs: true}
			if _, err := app.AppendExemplars(0, ls, []exemplar.Exemplar{e}); err != nil {
				t.Fatal(err)
			}
			b := labels.NewBuilder(ls)
			b.Set("replica", "a")
			last = b.Labels().String()
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		w.past()
		receiver.Await(t, "the exemplars of round "+fmt.Sprint(round), func() bool { return receiver.Exemplars(last) > 0 })
	}
}
