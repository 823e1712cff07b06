package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"

	"usaged/aggregator/durable"
)

// SQLite trusts what it reads: a byte that flipped on the disk is another number. So each page of a database that this package makes
// ends with a checksum, in bytes that SQLite reserves for extensions. It is written when a page goes from the log to the file, and
// looked at whenever a page is read from there; the log has checksums of its own. It is SQLite's own cksumvfs in idea: a virtual file
// system that passes everything on to that of the operating system.
//
// A page that does not agree with its checksum is an error of the read (SQLITE_IOERR_DATA). While the database is closed checkPages
// looks at all of them at once. Files of older versions have no room for checksums and are used as they are.

// ErrDamaged says that the file is not as it was written. What it had can be made again from the journal.
var ErrDamaged = errors.New("the usage database is damaged")

const (
	pageBytes = 4096
	// reservedBytes of each page are not SQLite's: a checksum, and four bytes of zero.
	reservedBytes = 8
	usableBytes   = pageBytes - reservedBytes
	// reservedAt is where the first page says how many bytes are reserved.
	reservedAt = 20
	magic      = "SQLite format 3\x00"
	// checksumVFS is the name of the virtual file system.
	checksumVFS = "usaged-checksum"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum returns that of a page. The number of the page is in it, so that one which was written to a wrong place is noticed.
func checksum(page []byte, number int64) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, binary.BigEndian.AppendUint64(nil, uint64(number))), castagnoli, page[:usableBytes])
}

func sealed(page []byte, number int64) bool {
	return binary.BigEndian.Uint32(page[usableBytes:]) == checksum(page, number) && binary.BigEndian.Uint32(page[usableBytes+4:]) == 0
}

func seal(page []byte, number int64) {
	binary.BigEndian.PutUint32(page[usableBytes:], checksum(page, number))
	binary.BigEndian.PutUint32(page[usableBytes+4:], 0)
}

// prepare makes an empty database with room for checksums where there is none, and says whether the one that is there has them. The
// error wraps ErrDamaged where it has, and they say that it is damaged.
func prepare(path string) (checksums bool, err error) {
	if fileBytes(path) == 0 {
		for _, old := range []string{path + "-wal", path + "-shm"} { // of a database that was deleted; SQLite drops them too
			if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
				return false, fmt.Errorf("%w; delete it", err)
			}
		}
		if err := durable.WriteFile(path, emptyDatabase(), 0o640); err != nil {
			return false, fmt.Errorf("%w; check that the directory exists and can be written", err)
		}
		return true, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("%w; check the owner and the mode of the file and its directory", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if plain, err := hasNoChecksums(f); err != nil || plain {
		return false, err
	}
	if fileBytes(path+"-wal") > 0 {
		return true, nil // a crash may have left half of a page that the log has whole
	}
	return true, checkPages(f)
}

// emptyDatabase returns the first page of a database without tables. See https://www.sqlite.org/fileformat.html.
func emptyDatabase() []byte {
	page := make([]byte, pageBytes)
	copy(page, magic)
	binary.BigEndian.PutUint16(page[16:], pageBytes)
	copy(page[18:], []byte{1, 1, reservedBytes, 64, 32, 32})
	binary.BigEndian.PutUint32(page[24:], 1) // changes
	binary.BigEndian.PutUint32(page[28:], 1) // pages
	binary.BigEndian.PutUint32(page[44:], 4) // format of the schema
	binary.BigEndian.PutUint32(page[56:], 1) // UTF-8
	binary.BigEndian.PutUint32(page[92:], 1) // the number of changes at which this was written
	binary.BigEndian.PutUint32(page[96:], sqlite3.SQLITE_VERSION_NUMBER)
	page[100] = 13 // a leaf of a table
	binary.BigEndian.PutUint16(page[105:], usableBytes)
	seal(page, 0)
	return page
}

// hasNoChecksums says that a file was made without room for checksums: by an older version, or by another program.
func hasNoChecksums(f *os.File) (bool, error) {
	page := make([]byte, 2*pageBytes)
	n, err := io.ReadFull(io.NewSectionReader(f, 0, 2*pageBytes), page)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	if n < pageBytes {
		return true, nil
	}
	first := page[:pageBytes]
	if first[reservedAt] == reservedBytes && string(first[:len(magic)]) == magic || sealed(first, 0) {
		return false, nil
	}
	// One of the bytes that say so may be what flipped.
	return n < len(page) || !sealed(page[pageBytes:], 1), nil
}

// checkPages reads all pages. One of zeros was never written, and is never read.
func checkPages(f *os.File) error {
	pages, page, zero := io.NewSectionReader(f, 0, 1<<62), make([]byte, 256*pageBytes), make([]byte, pageBytes)
	for number := int64(0); ; {
		n, err := io.ReadFull(pages, page)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("read page %d: %w", number+1, err)
		}
		for at := 0; at+pageBytes <= n; at += pageBytes {
			if p := page[at : at+pageBytes]; !sealed(p, number) && string(p) != string(zero) {
				return fmt.Errorf("%w: page %d does not agree with its checksum; %s", ErrDamaged, number+1, startAfresh)
			}
			number++
		}
		if err != nil {
			return nil //nolint:nilerr // it is the end of the file
		}
	}
}

// The functions of SQLite's interface that the virtual file system has of its own, and how they look in Go.
type (
	openFile func(tls *libc.TLS, vfs, name, file uintptr, flags int32, outFlags uintptr) int32
	readFile func(tls *libc.TLS, file, buffer uintptr, n int32, offset int64) int32
)

// checksummed has the methods of database files by those of the operating system's file system, and vice versa.
var checksummed struct {
	sync.RWMutex
	base       uintptr // the file system of the operating system
	methods    map[uintptr]uintptr
	underneath map[uintptr]uintptr
}

// registerChecksums makes the virtual file system known to SQLite, once in the life of the process.
var registerChecksums = sync.OnceValue(func() error {
	tls := libc.NewTLS()
	defer tls.Close()
	base := sqlite3.Xsqlite3_vfs_find(tls, 0)
	if base == 0 {
		return errors.New("SQLite has no file system")
	}
	checksummed.base, checksummed.methods, checksummed.underneath = base, map[uintptr]uintptr{}, map[uintptr]uintptr{}
	vfs := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_vfs{}))) // for ever, as is the name
	name, err := libc.CString(checksumVFS)
	if err != nil || vfs == 0 {
		return errors.Join(err, errors.New("no memory for a file system of SQLite"))
	}
	v := at[sqlite3.Tsqlite3_vfs](vfs)
	*v = *at[sqlite3.Tsqlite3_vfs](base)
	v.FzName, v.FpNext, v.FxOpen = name, 0, pointerOf(openFile(openChecksummed))
	if rc := sqlite3.Xsqlite3_vfs_register(tls, vfs, 0); rc != sqlite3.SQLITE_OK {
		return fmt.Errorf("register a file system with SQLite: error %d", rc)
	}
	return nil
})

// at is what lies at an address of SQLite's, which is outside of Go's heap.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// pointerOf and functionAt turn a Go function into what SQLite calls, and back.
func pointerOf[F any](f F) uintptr            { return *(*uintptr)(unsafe.Pointer(&f)) }
func functionAt[F any](address uintptr) (f F) { return *(*F)(unsafe.Pointer(&address)) }

func openChecksummed(tls *libc.TLS, _, name, file uintptr, flags int32, outFlags uintptr) int32 {
	base := checksummed.base
	rc := functionAt[openFile](at[sqlite3.Tsqlite3_vfs](base).FxOpen)(tls, base, name, file, flags, outFlags)
	f := at[sqlite3.Tsqlite3_file](file)
	if rc != sqlite3.SQLITE_OK || flags&sqlite3.SQLITE_OPEN_MAIN_DB == 0 || f.FpMethods == 0 {
		return rc
	}
	if m := methodsOver(tls, f.FpMethods); m != 0 {
		f.FpMethods = m
		return rc
	}
	functionAt[func(*libc.TLS, uintptr) int32](at[sqlite3.Tsqlite3_io_methods](f.FpMethods).FxClose)(tls, file)
	f.FpMethods = 0
	return sqlite3.SQLITE_NOMEM
}

// methodsOver returns the methods of files that have those underneath, 0 where there is no memory.
func methodsOver(tls *libc.TLS, underneath uintptr) uintptr {
	checksummed.Lock()
	defer checksummed.Unlock()
	if m := checksummed.methods[underneath]; m != 0 {
		return m
	}
	m := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_io_methods{}))) // for ever: there are a handful of kinds
	if m == 0 {
		return 0
	}
	methods := at[sqlite3.Tsqlite3_io_methods](m)
	*methods = *at[sqlite3.Tsqlite3_io_methods](underneath)
	methods.FiVersion = min(methods.FiVersion, 2) // from 3 on SQLite may map the file into memory, and read it past us
	methods.FxRead, methods.FxWrite = pointerOf(readFile(readChecksummed)), pointerOf(readFile(writeChecksummed))
	checksummed.methods[underneath], checksummed.underneath[m] = m, underneath
	return m
}

func methodsOf(file uintptr) *sqlite3.Tsqlite3_io_methods {
	checksummed.RLock()
	defer checksummed.RUnlock()
	return at[sqlite3.Tsqlite3_io_methods](checksummed.underneath[at[sqlite3.Tsqlite3_file](file).FpMethods])
}

func isPage(n int32, offset int64) bool { return n == pageBytes && offset%pageBytes == 0 }

func readChecksummed(tls *libc.TLS, file, buffer uintptr, n int32, offset int64) int32 {
	rc := functionAt[readFile](methodsOf(file).FxRead)(tls, file, buffer, n, offset)
	if rc == sqlite3.SQLITE_OK && isPage(n, offset) && !sealed(unsafe.Slice(at[byte](buffer), n), offset/pageBytes) {
		return sqlite3.SQLITE_IOERR_DATA
	}
	return rc
}

// writeChecksummed seals a page in the caller's buffer, whose reserved bytes are ours.
func writeChecksummed(tls *libc.TLS, file, buffer uintptr, n int32, offset int64) int32 {
	if isPage(n, offset) {
		seal(unsafe.Slice(at[byte](buffer), n), offset/pageBytes)
	}
	return functionAt[readFile](methodsOf(file).FxWrite)(tls, file, buffer, n, offset)
}
