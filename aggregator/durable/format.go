package durable

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strconv"
)

// ErrDamaged says that a file does not hold what was written.
var ErrDamaged = errors.New("damaged")

// ErrVersion says that a file has a version that this program does not know.
var ErrVersion = errors.New("not the version that this program knows")

// Format is how one kind of state file is kept.
type Format struct {
	// Version is written, and read.
	Version int
	// Plain is the version of files from before there were checksums, whose fields lie beside "version" without a
	// "content". They are read too, and 0 stands for files without a version.
	Plain int
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is that of a version and a content.
func checksum(version int, content []byte) string {
	sum := crc32.Checksum(binary.BigEndian.AppendUint64(nil, uint64(version)), castagnoli)
	return fmt.Sprintf("%08x", crc32.Update(sum, castagnoli, content))
}

// SaveJSON replaces path with the JSON of a value, see [WriteFile].
func (f Format) SaveJSON(path string, value any, perm os.FileMode) error {
	return f.SaveMade(path, perm, func(*os.File) (any, error) { return value, nil })
}

// SaveMade is SaveJSON for a value that depends on the file that is going to hold it.
func (f Format) SaveMade(path string, perm os.FileMode, value func(*os.File) (any, error)) error {
	return write(path, perm, func(file *os.File) ([]byte, error) {
		v, err := value(file)
		if err != nil {
			return nil, err
		}
		content, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return nil, err
		}
		return f.seal(content), nil
	})
}

func (f Format) seal(content []byte) []byte {
	data := fmt.Appendf(nil, `{"version":%d,"checksum":"%s","content":`, f.Version, checksum(f.Version, content))
	return append(append(data, content...), "}\n"...)
}

// LoadJSON reads path into a value. plain says that the file has no checksum: the caller writes it again. Where the error is
// [os.ErrNotExist], [ErrDamaged] or [ErrVersion] (errors.Is), it also says which file it is about; value is then not to be
// used.
func (f Format) LoadJSON(path string, value any) (plain bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	version, content, plain, err := open(data)
	switch {
	case err != nil:
		return false, fmt.Errorf("%s is %w: %w", path, ErrDamaged, err)
	case plain && version == f.Version:
		return false, fmt.Errorf("%s is %w: it has no checksum", path, ErrDamaged)
	case plain && version != f.Plain, !plain && version != f.Version:
		return false, fmt.Errorf("%s has version %d, %w: %d", path, version, ErrVersion, f.Version)
	}
	if err := json.Unmarshal(content, value); err != nil {
		return false, fmt.Errorf("%s is %w: %w", path, ErrDamaged, err)
	}
	return plain, nil
}

// open takes a file apart.
func open(data []byte) (version int, content []byte, plain bool, err error) {
	version, content, sum, ok := split(data)
	if !ok {
		return openPlain(data)
	}
	if checksum(version, content) != sum {
		return 0, nil, false, errors.New("its checksum is wrong")
	}
	return version, content, false, nil
}

// split takes a file apart that has a checksum, to the byte as it is written.
func split(data []byte) (version int, content []byte, sum string, ok bool) {
	rest, ok1 := bytes.CutPrefix(data, []byte(`{"version":`))
	number, rest, ok2 := bytes.Cut(rest, []byte(`,"checksum":"`))
	digits, rest, ok3 := bytes.Cut(rest, []byte(`","content":`))
	content, ok4 := bytes.CutSuffix(rest, []byte("}\n"))
	version, err := strconv.Atoi(string(number))
	return version, content, string(digits), ok1 && ok2 && ok3 && ok4 && err == nil
}

// openPlain reads the version of a file without a checksum. One that has a part of what belongs to a checksum has lost the
// rest of it.
func openPlain(data []byte) (version int, content []byte, plain bool, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return 0, nil, false, err
	}
	for _, key := range []string{"checksum", "content"} {
		if _, found := fields[key]; found {
			return 0, nil, false, errors.New("it is not as it was written")
		}
	}
	if text, found := fields["version"]; found {
		if err := json.Unmarshal(text, &version); err != nil {
			return 0, nil, false, fmt.Errorf("read its version: %w", err)
		}
	}
	return version, data, true, nil
}
