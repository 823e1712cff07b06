package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	digestDigits     = 16
	sourceBufferSize = 256 << 10
	zstdMaxMemory    = 256 << 20
)

// source is an input that can be read from its beginning as often as it takes: once for its digest, perhaps once for
// its times, once for its events. Standard input and pipes are copied to a temporary file first.
type source struct {
	name   string   // as it was given
	digest string   // the first digits of the SHA-256 of the raw bytes
	seen   contents // what was read since it was opened
	size   int64
	file   *os.File
}

// openSource opens a file, or standard input where the name is "-".
func openSource(ctx context.Context, s *session, name string) (*source, error) {
	src := &source{name: name}
	in := s.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil || info.IsDir() {
			f.Close()
			return nil, fmt.Errorf("%s: a file is due, not a directory", name)
		}
		if info.Mode().IsRegular() {
			src.file, src.size = f, info.Size()
			return src, src.hash(f)
		}
		defer f.Close()
		in = f
	}
	if err := src.spool(ctx, in); err != nil {
		return nil, fmt.Errorf("read %s: %w", src.label(), err)
	}
	return src, nil
}

// label names the input for people.
func (src *source) label() string {
	if src.name == "-" {
		return "stdin"
	}
	return filepath.Base(src.name)
}

func (src *source) close() { src.file.Close() }

func (src *source) hash(r io.Reader) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		src.close()
		return fmt.Errorf("read %s: %w", src.label(), err)
	}
	src.digest = hex.EncodeToString(sum.Sum(nil))[:digestDigits]
	return nil
}

// spool copies a stream to a temporary file, which has no name any more when it is filled, so that nothing is left
// behind however this process ends.
func (src *source) spool(ctx context.Context, in io.Reader) error {
	f, err := os.CreateTemp("", "usagectl-*")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return err
	}
	src.file = f
	copied := make(chan error, 1)
	go func() { // a read from a terminal cannot be interrupted: when ctx ends this is left to the end of the process
		n, err := io.Copy(f, in)
		src.size = n
		copied <- err
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-copied:
		if err != nil {
			src.close()
			return err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		src.close()
		return err
	}
	return src.hash(f)
}

// open reads the input from its beginning, unpacked and without a byte order mark. Every read of raw bytes is told to
// progress. Closing the reader leaves the source open.
func (src *source) open(progress func(n int)) (io.ReadCloser, error) {
	src.seen.reset()
	if _, err := src.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	packed := bufio.NewReaderSize(&countingReader{r: src.file, count: progress}, sourceBufferSize)
	magic, err := packed.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var plain io.Reader = packed
	closer := func() error { return nil }
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(packed)
		if err != nil {
			return nil, fmt.Errorf("gunzip: %w", err)
		}
		plain, closer = zr, zr.Close
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zr, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(zstdMaxMemory))
		if err != nil {
			return nil, fmt.Errorf("unpack zstd: %w", err)
		}
		plain, closer = zr, func() error { zr.Close(); return nil }
	}
	r := bufio.NewReaderSize(plain, sourceBufferSize)
	if mark, _ := r.Peek(3); string(mark) == "\uFEFF" {
		if _, err := r.Discard(len(mark)); err != nil {
			return nil, err
		}
	}
	return &unpacked{Reader: r, close: closer}, nil
}

type unpacked struct {
	*bufio.Reader
	close func() error
}

func (u *unpacked) Close() error { return u.close() }

// countingReader tells how many bytes went through.
type countingReader struct {
	r     io.Reader
	count func(n int)
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(n)
	return n, err
}

// Formats of input files.
const (
	formatAuto   = "auto"
	formatJSON   = "json"
	formatNDJSON = "ndjson"
	formatCSV    = "csv"
	formatTSV    = "tsv"
)

// formatOf goes by the name's ending; where it says nothing, by the first character, which tells JSON from the rest.
func (src *source) formatOf() (string, error) {
	name := strings.ToLower(src.name)
	for _, ending := range []string{".gz", ".zst", ".zstd"} {
		name = strings.TrimSuffix(name, ending)
	}
	switch filepath.Ext(name) {
	case ".json":
		return formatJSON, nil
	case ".ndjson", ".jsonl":
		return formatNDJSON, nil
	case ".csv":
		return formatCSV, nil
	case ".tsv":
		return formatTSV, nil
	}
	r, err := src.open(func(int) {})
	if err != nil {
		return "", err
	}
	defer r.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	text := bytes.TrimSpace(head[:n])
	if len(text) == 0 || text[0] == '{' || text[0] == '[' || text[0] == recordSeparator {
		return formatJSON, nil
	}
	return "", usagef("%s: neither its name nor its first character tells the format: say --format", src.label())
}
