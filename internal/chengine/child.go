package chengine

import (
	"fmt"
	"os"
)

// childArg, as the first argument, makes a process that calls RunChildIfAsked the engine's host.
const childArg = "__pulsegrid-clickhouse-engine"

// RunChildIfAsked is the first statement of main or TestMain of every program that calls Start. In the child it runs the engine
// and exits; everywhere else it returns at once.
func RunChildIfAsked() {
	if len(os.Args) < 2 || os.Args[1] != childArg {
		return
	}
	if err := Main(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "clickhouse engine:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
