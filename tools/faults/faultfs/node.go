package faultfs

import (
	"bytes"
	"context"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file or a directory. Every call goes through it, so that it can be counted, fail and be recorded.
type node struct {
	fs.LoopbackNode
	fs *FS
}

// WrapChild makes the nodes below a directory nodes of ours.
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{LoopbackNode: fs.LoopbackNode{RootData: n.RootData}, fs: n.fs}
}

// file keeps the kernel from reading and writing the backing file without us.
type file struct{ *fs.LoopbackFile }

// PassthroughFd says that there is no descriptor to pass through.
func (file) PassthroughFd() (int, bool) { return 0, false }

// Allocate is left out: it is not recorded, and callers do without.
func (file) Allocate(context.Context, uint64, uint64, uint32) syscall.Errno { return syscall.ENOTSUP }

// entries are those of an open directory, without a way around node.Fsync.
type entries struct {
	fs.FileHandle
	fs.FileReaddirenter
	fs.FileReleasedirer
	fs.FileSeekdirer
}

var _ = fs.FileReaddirenter(entries{})

func (n *node) path() string             { return n.Path(n.Root()) }
func (n *node) child(name string) string { return filepath.Join(n.path(), name) }

// id is the file's number in a recording.
func (n *node) id() uint64 { return n.StableAttr().Ino }

// Open opens a file that exists.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.fs.fails(Open, n.path()); errno != 0 {
		return nil, 0, errno
	}
	var h fs.FileHandle
	var out uint32
	perform := func() (Op, syscall.Errno) {
		var errno syscall.Errno
		h, out, errno = n.LoopbackNode.Open(ctx, flags)
		return Op{Kind: OpTruncate, File: n.id()}, errno
	}
	var errno syscall.Errno
	if flags&syscall.O_TRUNC != 0 {
		errno = n.fs.do(perform)
	} else {
		_, errno = perform()
	}
	if lf, ok := h.(*fs.LoopbackFile); ok {
		h = file{lf}
	}
	return h, out, errno
}

// Create makes a file and opens it.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.fs.fails(Create, n.child(name)); errno != 0 {
		return nil, nil, 0, errno
	}
	var inode *fs.Inode
	var h fs.FileHandle
	var outFlags uint32
	errno := n.fs.do(func() (Op, syscall.Errno) {
		var errno syscall.Errno
		inode, h, outFlags, errno = n.LoopbackNode.Create(ctx, name, flags, mode, out)
		if errno != 0 {
			return Op{}, errno
		}
		return Op{Kind: OpCreate, Path: n.child(name), File: inode.StableAttr().Ino}, 0
	})
	if lf, ok := h.(*fs.LoopbackFile); ok {
		h = file{lf}
	}
	return inode, h, outFlags, errno
}

// Read reads.
func (n *node) Read(ctx context.Context, h fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := n.fs.fails(Read, n.path()); errno != 0 {
		return nil, errno
	}
	return h.(fs.FileReader).Read(ctx, dest, off)
}

// Write writes.
func (n *node) Write(ctx context.Context, h fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := n.fs.fails(Write, n.path()); errno != 0 {
		return 0, errno
	}
	var written uint32
	errno := n.fs.do(func() (Op, syscall.Errno) {
		var errno syscall.Errno
		written, errno = h.(fs.FileWriter).Write(ctx, data, off)
		return Op{Kind: OpWrite, File: n.id(), Offset: off, Data: bytes.Clone(data[:written])}, errno
	})
	return written, errno
}

// Fsync succeeds at once. It is of a file, or of a directory.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if errno := n.fs.fails(Fsync, n.path()); errno != 0 {
		return errno
	}
	return n.fs.do(func() (Op, syscall.Errno) {
		if n.IsDir() {
			return Op{Kind: OpSyncDir, Path: n.path()}, 0
		}
		return Op{Kind: OpSync, File: n.id()}, 0
	})
}

// Setattr truncates, or changes what is not recorded.
func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	size, truncates := in.GetSize()
	if !truncates {
		return n.LoopbackNode.Setattr(ctx, h, in, out)
	}
	if errno := n.fs.fails(Truncate, n.path()); errno != 0 {
		return errno
	}
	return n.fs.do(func() (Op, syscall.Errno) {
		return Op{Kind: OpTruncate, File: n.id(), Size: int64(size)}, n.LoopbackNode.Setattr(ctx, h, in, out)
	})
}

// Rename renames within the mounted directory.
func (n *node) Rename(ctx context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.fs.fails(Rename, n.child(name)); errno != 0 {
		return errno
	}
	to, ok := newParent.(*node)
	if !ok {
		return syscall.EXDEV
	}
	return n.fs.do(func() (Op, syscall.Errno) {
		op := Op{Kind: OpRename, Path: n.child(name), To: to.child(newName)}
		return op, n.LoopbackNode.Rename(ctx, name, newParent, newName, flags)
	})
}

// Unlink removes a file.
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.fs.fails(Unlink, n.child(name)); errno != 0 {
		return errno
	}
	return n.fs.do(func() (Op, syscall.Errno) {
		return Op{Kind: OpRemove, Path: n.child(name)}, n.LoopbackNode.Unlink(ctx, name)
	})
}

// Rmdir removes a directory.
func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.fs.do(func() (Op, syscall.Errno) {
		return Op{Kind: OpRemove, Path: n.child(name)}, n.LoopbackNode.Rmdir(ctx, name)
	})
}

// Link gives a file a second name.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	var inode *fs.Inode
	errno := n.fs.do(func() (Op, syscall.Errno) {
		var errno syscall.Errno
		inode, errno = n.LoopbackNode.Link(ctx, target, name, out)
		if errno != 0 {
			return Op{}, errno
		}
		return Op{Kind: OpLink, Path: n.child(name), File: inode.StableAttr().Ino}, 0
	})
	return inode, errno
}

// Mkdir makes a directory.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.fs.fails(Mkdir, n.child(name)); errno != 0 {
		return nil, errno
	}
	var inode *fs.Inode
	errno := n.fs.do(func() (Op, syscall.Errno) {
		var errno syscall.Errno
		inode, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return Op{Kind: OpMkdir, Path: n.child(name)}, errno
	})
	return inode, errno
}

// OpendirHandle opens a directory.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.fs.fails(Readdir, n.path()); errno != 0 {
		return nil, 0, errno
	}
	h, out, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return entries{h, h.(fs.FileReaddirenter), h.(fs.FileReleasedirer), h.(fs.FileSeekdirer)}, out, 0
}
