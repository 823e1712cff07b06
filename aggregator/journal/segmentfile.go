package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/prometheus/prometheus/tsdb/wlog"
)

// ReadError says that a file or directory of the journal could not be read. It says nothing about what is stored there:
// nobody may take it for damage, for an end, or for a missing event. Nothing was changed; the same call may be repeated,
// and reads on where it stopped once the disk answers.
type ReadError struct {
	// Path is the file or directory.
	Path string
	// Offset is the byte from which on it could not be read, -1 where it could not even be opened or listed.
	Offset int64
	Err    error
}

func (e *ReadError) Error() string {
	at := ""
	if e.Offset >= 0 {
		at = fmt.Sprintf(" at byte %d", e.Offset)
	}
	err := e.Err
	if pathError, ok := errors.AsType[*fs.PathError](err); ok && pathError.Path == e.Path {
		err = fmt.Errorf("%s: %w", pathError.Op, pathError.Err) // the path is named already
	}
	return fmt.Sprintf("cannot read %s%s (%v): this says nothing about its content, and nothing was changed; check the disk, then try again",
		e.Path, at, err)
}

func (e *ReadError) Unwrap() error { return e.Err }

// readError wraps err unless it is nil.
func readError(path string, err error) error {
	if err == nil {
		return nil
	}
	return &ReadError{Path: path, Offset: -1, Err: err}
}

// segmentFile is a segment opened for reading. All of its errors are a *[ReadError].
type segmentFile struct {
	path string
	file *os.File
}

func openSegment(dir string, index int) (*segmentFile, error) {
	path := wlog.SegmentName(dir, index)
	file, err := os.Open(path)
	if err != nil {
		return nil, readError(path, err)
	}
	return &segmentFile{path, file}, nil
}

// ReadAt is as in io.ReaderAt, except that it is never short without an error that says why: io.EOF only where the file
// says of itself that it ends there.
func (f *segmentFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.file.ReadAt(b, off)
	if n == len(b) {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		size, sizeErr := f.size()
		if sizeErr != nil {
			return n, sizeErr
		}
		if size <= off+int64(n) {
			return n, io.EOF
		}
		err = io.ErrUnexpectedEOF
	}
	return n, &ReadError{Path: f.path, Offset: off + int64(n), Err: err}
}

func (f *segmentFile) size() (int64, error) {
	info, err := f.file.Stat()
	if err != nil {
		return 0, readError(f.path, err)
	}
	return info.Size(), nil
}

// reopen goes on with a fresh descriptor, and asks the kernel to read from the disk what it has in memory: what was read
// wrongly once may be right then. A file that has been deleted or replaced meanwhile is kept.
func (f *segmentFile) reopen() error {
	old, err := f.file.Stat()
	if err != nil {
		return readError(f.path, err)
	}
	fresh, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		forgetCached(f.file)
		return nil
	}
	if err != nil {
		return readError(f.path, err)
	}
	info, err := fresh.Stat()
	if err != nil {
		return readError(f.path, errors.Join(err, fresh.Close()))
	}
	forgetCached(fresh)
	if !os.SameFile(old, info) {
		return readError(f.path, fresh.Close())
	}
	f.file, fresh = fresh, f.file
	return readError(f.path, fresh.Close())
}

func (f *segmentFile) Close() error { return f.file.Close() }

// fileSize returns the size of a segment.
func fileSize(dir string, index int) (int64, error) {
	path := wlog.SegmentName(dir, index)
	info, err := os.Stat(path)
	if err != nil {
		return 0, readError(path, err)
	}
	return info.Size(), nil
}
