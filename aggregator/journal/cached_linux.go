package journal

import (
	"os"

	"golang.org/x/sys/unix"
)

// forgetCached asks the kernel to read the file from the disk again. Pages that are not written yet stay, and a kernel that
// declines only makes the second read a weaker witness, so the error is not looked at.
func forgetCached(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
