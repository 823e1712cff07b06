package durable

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Place names a file by its number and the moment of its birth, "" where the file system does not tell.
// Both are given by the kernel, so a file that was copied, or unpacked from a backup, has others than the original.
func Place(f *os.File) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err == unix.ENOSYS || err == unix.EPERM { // an old kernel, or a sandbox that forbids it
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the birth of %s: %w", f.Name(), err)
	}
	const wanted = unix.STATX_INO | unix.STATX_BTIME
	if st.Mask&wanted != wanted || st.Btime.Sec == 0 {
		return "", nil
	}
	return fmt.Sprintf("%x-%x.%x", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
}
