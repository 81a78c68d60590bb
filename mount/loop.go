package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopTries bounds how often a free loop device is asked for: between
// LOOP_CTL_GET_FREE and LOOP_CONFIGURE another may take it, and one of those who
// race for a device always gets it.
const loopTries = 1000

// AttachLoop attaches the regular file to a free loop device, read-only, and
// returns the open device. The kernel detaches it (LO_FLAGS_AUTOCLEAR) when its
// last user is gone: close the device after mounting it, and it goes with the
// mount. The file may be unlinked at once, the device keeps it.
//
// It needs LOOP_CONFIGURE, Linux 5.8.
func AttachLoop(file *os.File) (*os.File, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop device for %s: %w (is the module loop there?)", file.Name(), err)
	}
	defer ctl.Close()
	config := unix.LoopConfig{
		Fd:   uint32(file.Fd()),
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
	}
	for range loopTries {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("loop device for %s: ask /dev/loop-control for a free one: %w", file.Name(), err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if errors.Is(err, unix.ENXIO) {
			continue // taken away by LOOP_CTL_REMOVE in between
		}
		if err != nil {
			return nil, fmt.Errorf("loop device for %s: %w", file.Name(), err)
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // EBUSY: somebody else was faster
			return nil, fmt.Errorf("attach %s to %s: %w", file.Name(), dev.Name(), err)
		}
	}
	return nil, fmt.Errorf("loop device for %s: none free after %d tries", file.Name(), loopTries)
}
