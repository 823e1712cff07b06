// Package faultdisk is a disk for tests whose calls can be made to fail, to hang, or to read wrong bytes. It shows a directory
// through FUSE, so that it meets every call of a process, in whatever library it is made.
package faultdisk

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Op names a call of the file system.
type Op string

// The calls that a Disk shows. Sync is fsync of a file and SyncDir that of a directory; Truncate is every change of the size.
const (
	Open     Op = "open"
	Create   Op = "create"
	Read     Op = "read"
	Write    Op = "write"
	Sync     Op = "fsync"
	SyncDir  Op = "fsync of a directory"
	Truncate Op = "truncate"
	Rename   Op = "rename"
	Link     Op = "link"
	Remove   Op = "remove"
	MakeDir  Op = "mkdir"
	ReadDir  Op = "readdir"
	Stat     Op = "stat"
)

// Call is a call of a file or directory.
type Call struct {
	Op   Op
	Name string // without the directory
	Off  int64  // of Read and Write; in Truncate the new size
	Data []byte // what was read, which may be changed, or is to be written
}

// Disk is a mounted directory.
type Disk struct {
	// Dir is where it is seen, Real what lies beneath.
	Dir, Real string

	mu   sync.RWMutex
	hook func(*Call) syscall.Errno
}

// Mount mounts an empty disk until the test ends. Where that is not possible the test is skipped, and under CI fails.
func Mount(tb testing.TB) *Disk {
	tb.Helper()
	d := &Disk{Dir: tb.TempDir(), Real: tb.TempDir()}
	root := &fs.LoopbackRoot{Path: d.Real}
	root.NewNode = func(r *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder { //nolint:staticcheck // its replacement wraps nodes that were made, and these are ours from the start
		return &node{fs.LoopbackNode{RootData: r}, d}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(d.Real, &st); err != nil {
		tb.Fatal(err)
	}
	root.Dev = st.Dev
	top := &node{fs.LoopbackNode{RootData: root}, d}
	root.RootNode = top
	server, err := fs.Mount(d.Dir, top, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faultdisk"}})
	if err != nil {
		why := "cannot mount a FUSE file system (" + err.Error() + "): run the tests as root on a machine with /dev/fuse"
		if os.Getenv("CI") == "true" {
			tb.Fatal(why)
		}
		tb.Skip(why)
	}
	tb.Cleanup(func() {
		d.Heal()
		if err := syscall.Unmount(d.Dir, syscall.MNT_DETACH); err != nil {
			tb.Errorf("unmount: %v", err)
		}
		server.Wait()
	})
	return d
}

// Intercept has every call shown to f from now on, before it is made, except that a Read has been made. A call for which f
// returns an error fails with it; while f doesn't return, the call hangs. f is called by several goroutines at once.
func (d *Disk) Intercept(f func(c *Call) syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = f
}

// Heal ends what Intercept began.
func (d *Disk) Heal() { d.Intercept(nil) }

func (d *Disk) show(c Call) syscall.Errno {
	d.mu.RLock()
	hook := d.hook
	d.mu.RUnlock()
	if hook == nil {
		return 0
	}
	return hook(&c)
}

// node is a file or directory.
type node struct {
	fs.LoopbackNode
	disk *Disk
}

func (n *node) name() string { return filepath.Base(n.Path(n.Root())) }

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.disk.show(Call{Op: Open, Name: n.name()}); errno != 0 {
		return nil, 0, errno
	}
	fh, _, errno := n.LoopbackNode.Open(ctx, flags)
	return n.file(n.name(), fh), fuse.FOPEN_DIRECT_IO, errno
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.disk.show(Call{Op: Create, Name: name}); errno != 0 {
		return nil, nil, 0, errno
	}
	inode, fh, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.file(name, fh), fuse.FOPEN_DIRECT_IO, errno
}

func (n *node) file(name string, fh fs.FileHandle) fs.FileHandle {
	if loopback, ok := fh.(*fs.LoopbackFile); ok {
		return &file{loopback, n.disk, name}
	}
	return fh
}

func (n *node) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if errno := n.disk.show(Call{Op: Truncate, Name: n.name(), Off: int64(size)}); errno != 0 {
			return errno
		}
	}
	return n.LoopbackNode.Setattr(ctx, fh, in, out)
}

func (n *node) Getattr(ctx context.Context, fh fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if errno := n.disk.show(Call{Op: Stat, Name: n.name()}); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Getattr(ctx, fh, out)
}

func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.disk.show(Call{Op: Rename, Name: newName}); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, parent, newName, flags)
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.show(Call{Op: Link, Name: name}); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Link(ctx, target, name, out)
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.disk.show(Call{Op: Remove, Name: name}); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.disk.show(Call{Op: MakeDir, Name: name}); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, flags, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if stream, ok := fh.(dirStream); ok {
		return &dir{stream, n}, flags, errno
	}
	return fh, flags, errno
}

// dirStream is what go-fuse makes of a directory.
type dirStream interface {
	fs.FileReaddirenter
	fs.FileFsyncdirer
	fs.FileReleasedirer
	fs.FileSeekdirer
}

// dir is an open directory.
type dir struct {
	dirStream
	node *node
}

func (d *dir) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	if errno := d.node.disk.show(Call{Op: ReadDir, Name: d.node.name()}); errno != 0 {
		return nil, errno
	}
	return d.dirStream.Readdirent(ctx)
}

func (d *dir) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	if errno := d.node.disk.show(Call{Op: SyncDir, Name: d.node.name()}); errno != 0 {
		return errno
	}
	return d.dirStream.Fsyncdir(ctx, flags)
}

// file is an open file.
type file struct {
	*fs.LoopbackFile
	disk *Disk
	name string
}

// PassthroughFd keeps the kernel from going past us.
func (f *file) PassthroughFd() (int, bool) { return 0, false }

func (f *file) Read(ctx context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	result, errno := f.LoopbackFile.Read(ctx, buf, off)
	if errno != 0 {
		return nil, errno
	}
	data, status := result.Bytes(buf)
	if !status.Ok() {
		return nil, syscall.Errno(status)
	}
	errno = f.disk.show(Call{Op: Read, Name: f.name, Off: off, Data: data})
	return fuse.ReadResultData(data), errno
}

func (f *file) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := f.disk.show(Call{Op: Write, Name: f.name, Off: off, Data: data}); errno != 0 {
		return 0, errno
	}
	return f.LoopbackFile.Write(ctx, data, off)
}

// Writev would be taken in the place of Write.
func (f *file) Writev(ctx context.Context, parts [][]byte, off int64) (uint32, syscall.Errno) {
	var written uint32
	for _, data := range parts {
		n, errno := f.Write(ctx, data, off+int64(written))
		written += n
		if errno != 0 {
			return written, errno
		}
	}
	return written, 0
}

func (f *file) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := f.disk.show(Call{Op: Sync, Name: f.name}); errno != 0 {
		return errno
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}
