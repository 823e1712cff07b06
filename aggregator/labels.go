package aggregator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"usaged/aggregator/durable"
	"usaged/aggregator/meter"
)

// labels are the values of the lifetime totals' labels, and the file that keeps them: <data>/labels.json. It is written
// before a batch that uses a new value is given to the store, so that whatever is applied again gets the same labels.
type labels struct {
	*meter.Labels
	path string

	saving sync.Mutex
	saved  uint64 // the number of changes in the file
}

var labelsFormat = durable.Format{Version: 2, Plain: 1}

func openLabels(dir string, limits meter.Limits) (*labels, error) {
	l := &labels{Labels: meter.NewLabels(limits), path: filepath.Join(dir, "labels.json")}
	plain, err := labelsFormat.LoadJSON(l.path, l.Labels)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read labels: %w: restore it from a backup, or delete it: it is made again from the lifetime totals", err)
	}
	if !plain {
		l.saved = l.Changes()
	}
	return l, nil
}

// save makes the values durable where some are new. It is safe for concurrent use.
func (l *labels) save() error {
	l.saving.Lock()
	defer l.saving.Unlock()
	changes := l.Changes()
	if changes == l.saved {
		return nil
	}
	if err := labelsFormat.SaveJSON(l.path, l.Labels, 0o640); err != nil {
		return fmt.Errorf("write labels: %w", err)
	}
	l.saved = changes
	return nil
}
