// Package faultfs shows a directory through FUSE, lets the n-th call of a kind fail, and records what is written and synced.
//
//	f, err := faultfs.Mount(backing, mountpoint)
//	defer f.Unmount()
//	f.Fail(faultfs.Rule{Kind: faultfs.Fsync, N: 3, Errno: syscall.EIO})
//	// … a program works in mountpoint; its third fsync from now on fails …
//	calls := f.Heal()
//
// Nothing is synced to the real disk: what a power cut may leave of a recording is made from the recording by [State]. An FS is
// safe for concurrent use. Mounting needs root or fusermount3, and Linux.
package faultfs

import (
	"fmt"
	"maps"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Kind is a kind of call.
type Kind string

// The kinds of calls that are counted and can fail. Open is the opening of a file that exists, Readdir of a directory.
const (
	Open     Kind = "open"
	Create   Kind = "create"
	Read     Kind = "read"
	Write    Kind = "write"
	Fsync    Kind = "fsync"
	Rename   Kind = "rename"
	Truncate Kind = "truncate"
	Unlink   Kind = "unlink"
	Mkdir    Kind = "mkdir"
	Readdir  Kind = "readdir"
)

// Kinds are all kinds of calls.
var Kinds = []Kind{Open, Create, Read, Write, Fsync, Rename, Truncate, Unlink, Mkdir, Readdir}

// Rule says which call fails.
type Rule struct {
	Kind Kind
	// N is the number of the call, counted from 1 at [FS.Fail].
	N int
	// Lasting lets the calls of this kind after the n-th fail too, until [FS.Heal].
	Lasting bool
	// Errno is what the caller gets.
	Errno syscall.Errno
}

// FS is a mounted directory.
type FS struct {
	server *fuse.Server
	dir    string

	mu     sync.Mutex
	rule   Rule // without a kind: nothing fails
	counts map[Kind]int
	failed []string // the calls that were made to fail, as "fsync journal/00000000"

	recording bool
	log       []Op
}

// Mount shows the directory backing in the directory mountpoint.
func Mount(backing, mountpoint string) (*FS, error) {
	f := &FS{dir: mountpoint, counts: map[Kind]int{}}
	var st syscall.Stat_t
	if err := syscall.Stat(backing, &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", backing, err)
	}
	root := &fs.LoopbackRoot{Path: backing, Dev: st.Dev}
	top := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, fs: f}
	root.RootNode = top
	server, err := fs.Mount(mountpoint, top, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMount: true, FsName: "faultfs", MaxWrite: 1 << 20,
	}})
	if err != nil {
		return nil, fmt.Errorf("mount %s with FUSE: %w", mountpoint, err)
	}
	f.server = server
	return f, nil
}

// Unmount ends the view. The calls of processes that still use it fail from now on: without that, a process that serves the view
// and holds a file of it open could never end, because the kernel waits for an answer when it closes the file.
func (f *FS) Unmount() error {
	if err := syscall.Unmount(f.dir, syscall.MNT_FORCE|syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", f.dir, err)
	}
	f.server.Wait()
	return nil
}

// Fail sets the rule and begins to count anew.
func (f *FS) Fail(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule, f.counts, f.failed = r, map[Kind]int{}, nil
}

// Heal ends the rule, and returns the calls that it has let fail.
func (f *FS) Heal() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = Rule{}
	return f.failed
}

// Counts returns how many calls of each kind there were since Mount or the last Fail.
func (f *FS) Counts() map[Kind]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.counts)
}

// Record begins a recording. The directory must be empty.
func (f *FS) Record() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recording, f.log = true, nil
}

// Recorded returns the operations until now.
func (f *FS) Recorded() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log[:len(f.log):len(f.log)]
}

// Position returns how many operations are recorded.
func (f *FS) Position() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.log)
}

// fails counts a call and returns the error that it must return.
func (f *FS) fails(kind Kind, path string) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[kind]++
	if f.rule.Kind != kind {
		return 0
	}
	if n := f.counts[kind]; n < f.rule.N || n > f.rule.N && !f.rule.Lasting {
		return 0
	}
	f.failed = append(f.failed, string(kind)+" "+path)
	return f.rule.Errno
}

// do performs a call that changes something. While recording, calls are performed one by one, so that the order of the
// recording is that in which they took effect.
func (f *FS) do(perform func() (Op, syscall.Errno)) syscall.Errno {
	f.mu.Lock()
	if !f.recording {
		f.mu.Unlock()
		_, errno := perform()
		return errno
	}
	defer f.mu.Unlock()
	op, errno := perform()
	if errno == 0 {
		f.log = append(f.log, op)
	}
	return errno
}
