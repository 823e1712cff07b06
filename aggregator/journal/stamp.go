package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// NewestStamp returns the stamp of the newest record of the journal in dir, without opening it. The zero time says that there
// is none.
func NewestStamp(dir string) (time.Time, error) {
	indexes, err := segmentIndexes(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read the newest stamp: %w", err)
	}
	for _, index := range slices.Backward(indexes) {
		s, err := summarizeEnds(dir, index)
		if err != nil {
			return time.Time{}, fmt.Errorf("read the newest stamp: %w", err)
		}
		if s.records > 0 {
			return s.newest, nil
		}
	}
	return time.Time{}, nil
}
