package embedded_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

// TestSamplesThatCannotBeWritten has a TSDB that cannot write what it has in memory. It is opened again, and everything is there.
func TestSamplesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.start()
	if err := os.RemoveAll(filepath.Join(r.cfg.Dir, "chunks_head")); err != nil {
		t.Fatal(err)
	}
	const samples = 1000 // more than a chunk takes
	if err := r.prom.Append(t.Context(), labels.FromStrings("__name__", "many"), samples); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another attempt", func() error {
		if r.counter("usaged_prometheus_open_failures_total") == 0 || r.get("query?query=1", nil) != http.StatusOK {
			return errors.New("none was successful")
		}
		return nil
	})
	r.becomes("count_over_time(many[1h])", "1000")
}

// TestAStopWithSamplesThatCannotBeWritten ends, and leaves them in the log.
func TestAStopWithSamplesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.start()
	if err := os.RemoveAll(filepath.Join(r.cfg.Dir, "chunks_head")); err != nil {
		t.Fatal(err)
	}
	if err := r.prom.Append(t.Context(), labels.FromStrings("__name__", "many"), 1000); err != nil {
		t.Fatal(err)
	}
	r.stop(r.prom)
	r.start()
	r.becomes("count_over_time(many[1h])", "1000")
}
