//go:build !noengine

package chengine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// hasEngine: this program can be the engine's host. Opening a C library takes the C library's own loader.
const hasEngine = true

// Main runs the engine in this process until standard input closes: args are the library's path and then clickhouse-local's
// arguments. Only a process of its own should call it: the engine changes signal handlers and may end the process.
func Main(args []string) error {
	if len(args) < 1 {
		return errors.New("want the path of libchdb.so and the engine's arguments")
	}
	runtime.LockOSThread()
	handle, err := purego.Dlopen(args[0], purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return fmt.Errorf("load %s (it needs a CPU with AVX2, and glibc): %w", args[0], err)
	}
	var (
		setSignalHandlers func(int32)
		cmdline           func(int32, unsafe.Pointer) uintptr
		resultError       func(uintptr) string // purego copies the C string
	)
	purego.RegisterLibFunc(&setSignalHandlers, handle, "chdb_set_signal_handlers_enabled")
	purego.RegisterLibFunc(&cmdline, handle, "chdb_query_cmdline")
	purego.RegisterLibFunc(&resultError, handle, "chdb_result_error")

	setSignalHandlers(0) // the engine's own would take Go's signals for crashes

	argv, pin := cArgs(append([]string{"clickhouse-local"}, args[1:]...))
	defer pin.Unpin()
	result := cmdline(int32(len(argv)-1), unsafe.Pointer(&argv[0]))
	if text := resultError(result); text != "" {
		return errors.New(text)
	}
	return nil
}

// cArgs makes a C argv, ended by a null pointer. The memory stays where it is until it is unpinned.
func cArgs(args []string) ([]*byte, *runtime.Pinner) {
	pin := &runtime.Pinner{}
	argv := make([]*byte, len(args)+1)
	for i, a := range args {
		b := append([]byte(a), 0)
		pin.Pin(&b[0])
		argv[i] = &b[0]
	}
	pin.Pin(&argv[0])
	return argv, pin
}
