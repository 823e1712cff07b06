package aggregator

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"usaged/aggregator/durable"
	"usaged/aggregator/meter"
)

// labels are the values of the lifetime totals' labels, and the file that keeps them: <data>/labels.json. It is written
// before a batch that uses a new value is given to the store, so that whatever is applied again gets the same labels.
type labels struct {
	*meter.Labels
	path  string
	saved uint64 // the number of changes in the file
}

func openLabels(dir string, limits meter.Limits) (*labels, error) {
	l := &labels{Labels: meter.NewLabels(limits), path: filepath.Join(dir, "labels.json")}
	data, err := os.ReadFile(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, l.Labels); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it from a backup, or delete it: it is made again from the lifetime totals", l.path, err)
	}
	l.saved = l.Changes()
	return l, nil
}

// save makes the values durable where some are new. It belongs to the applier.
func (l *labels) save() error {
	changes := l.Changes()
	if changes == l.saved {
		return nil
	}
	data, err := json.MarshalIndent(l.Labels, "", "  ")
	if err == nil {
		err = durable.WriteFile(l.path, append(data, '\n'), 0o640)
	}
	if err != nil {
		return fmt.Errorf("write labels: %w", err)
	}
	l.saved = changes
	return nil
}
