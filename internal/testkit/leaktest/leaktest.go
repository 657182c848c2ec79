// Package leaktest gives goroutines the time to end that they need on a busy machine, before goleak looks for those that are left.
package leaktest

import (
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines that are about to end may take. goleak itself waits for less than half a second, in which a busy machine may not run all of them once.
const patience = 10 * time.Second

// Patient is m for goleak.VerifyTestMain, to which the same options go: where its tests pass, its Run waits until their goroutines have ended, at most for patience.
func Patient(m goleak.TestingM, options ...goleak.Option) goleak.TestingM {
	return patient{m, options, patience}
}

type patient struct {
	tests   goleak.TestingM
	options []goleak.Option
	most    time.Duration
}

func (p patient) Run() int {
	code := p.tests.Run()
	for end := time.Now().Add(p.most); code == 0 && time.Now().Before(end) && goleak.Find(p.options...) != nil; {
		time.Sleep(100 * time.Millisecond)
	}
	return code
}
