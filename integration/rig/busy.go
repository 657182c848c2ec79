package rig

import (
	"fmt"
	"os"
	"runtime"
)

// Busy is how many times as long as on an idle machine things may take: the processes that wanted a CPU, on average over the last minute, for each CPU; 1 at least. Tests
// multiply by it what they state of times.
func Busy() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 1
	}
	var minute float64
	if _, err := fmt.Sscan(string(text), &minute); err != nil {
		return 1
	}
	return max(1, minute/float64(runtime.NumCPU()))
}
