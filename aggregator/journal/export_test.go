package journal

import (
	"errors"
	"io"
	"os"
)

const (
	HeaderBytes         = headerBytes
	FragmentHeaderBytes = fragmentHeaderBytes
	OpeningBytes        = openingBytes
)

// ScanPayloads returns the raw records of a segment file, and the error that ended the scan unless it was the end.
func ScanPayloads(path string) ([][]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	s := newScanner(&segmentFile{path, file}, info.Size())
	var payloads [][]byte
	for {
		p, err := s.nextPayload()
		if errors.Is(err, io.EOF) {
			return payloads, nil
		}
		if err != nil {
			return payloads, err
		}
		payloads = append(payloads, append([]byte{}, p...))
	}
}

// Offset returns where in its segment the reader is.
func (r *Reader) Offset() int64 { return r.scan.off }
