package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pulsegrid/pulsegrid/integration/rig"
)

// A Go program reads the clock from the kernel's page in its own memory: no library can come between, and time namespaces do not
// move the wall clock. So the collector is built once more, from the same sources, with a standard library of which one function is
// another: time.Now adds what this variable says, in seconds. Timers, which do not ask it, stay right.
const clockVariable = "FAKE_CLOCK_OFFSET"

const clockOff = 10 * time.Minute

// wrongClock runs an aggregator whose clock is ten minutes off, ahead or behind.
func (r *run) wrongClock() error {
	program, err := wrongClockCollector()
	if err != nil {
		return err
	}
	a := r.anAggregator()
	if !a.Stop(stopGrace) {
		return fmt.Errorf("%s did not stop within %v", a.Name, stopGrace)
	}
	offset := int(clockOff.Seconds())
	if r.rng.IntN(2) == 0 {
		offset = -offset
	}
	r.t.Logf("%s's clock is off by %d s", a.Name, offset)
	a.Arm(clockVariable, fmt.Sprint(offset))
	if err := a.StartAs(program, startTimeout); err != nil {
		return err
	}
	time.Sleep(scaled(badFor) + sessionTimeout)
	log := a.Log()
	if !a.Stop(stopGrace) {
		return fmt.Errorf("%s did not stop within %v", a.Name, stopGrace)
	}
	if err := offBy(log, offset); err != nil {
		return err
	}
	return a.Start(startTimeout)
}

// offBy makes sure, by the time that the collector itself wrote into its log, that its clock was wrong.
func offBy(log string, offset int) error {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	var last struct {
		Time time.Time `json:"ts"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		return fmt.Errorf("the last line of the log has no time: %w", err)
	}
	off := time.Until(last.Time).Seconds()
	if math.Abs(off-float64(offset)) > 120 { // the line may be a minute old
		return fmt.Errorf("the clock was off by %.0f s, not by %d", off, offset)
	}
	return nil
}

// buildWrongClock takes minutes at first: every package depends on time.
func buildWrongClock() error {
	_, err := wrongClockCollector()
	return err
}

func wrongClockCollector() (string, error) {
	root := filepath.Join(rig.Root(), "_build")
	program := filepath.Join(root, "wrong-clock", "pulsegrid-collector")
	sources := filepath.Join(root, "collector") // ocb's
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(goroot)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	changed, err := withOffset(string(text))
	if err != nil {
		return "", fmt.Errorf("%s: %w", original, err)
	}
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		return "", err
	}
	replacement, overlay := filepath.Join(root, "wrong-clock", "time.go.txt"), filepath.Join(root, "wrong-clock", "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: replacement}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(replacement, []byte(changed), 0o644), os.WriteFile(overlay, list, 0o644)); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-overlay", overlay, "-o", program, ".")
	build.Dir = sources
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the collector with a wrong clock in %s: %w: %s", sources, err, out)
	}
	return program, nil
}

// withOffset changes the source of package time.
func withOffset(source string) (string, error) {
	const head = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(source, head) != 1 {
		return "", errors.New("time.Now is not what this test knows: adapt withOffset to this version of Go")
	}
	source = strings.Replace(source, head, head+"\tsec += clockOffset\n", 1)
	source = strings.Replace(source, "import (\n", "import (\n\t\"syscall\"\n", 1)
	return source + `
var clockOffset = func() (offset int64) {
	text, _ := syscall.Getenv("` + clockVariable + `")
	sign := int64(1)
	for _, c := range text {
		if c == '-' {
			sign = -1
		} else {
			offset = offset*10 + int64(c-'0')
		}
	}
	return sign * offset
}()
`, nil
}
