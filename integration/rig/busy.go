package rig

import (
	"fmt"
	"os"
	"runtime"
	"strings"
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

// CPUTime is for how long all CPUs of this machine have worked, and for how long they could have, in ticks since it was started.
func CPUTime() (worked, all int64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var t [8]int64 // user, nice, system, idle, iowait, irq, softirq, steal
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d %d", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]); err != nil {
		return 0, 0, fmt.Errorf("/proc/stat: %q: %w", line, err)
	}
	for _, n := range t {
		all += n
	}
	return all - t[3] - t[4], all, nil
}
