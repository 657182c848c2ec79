//go:build noengine

package chengine

// hasEngine: a program that is built with this tag needs no C library, and so runs in an image that has none, but it cannot be the engine's host.
const hasEngine = false

// Main tells so.
func Main([]string) error { return errNoEngine }
