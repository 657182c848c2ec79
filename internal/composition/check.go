package composition

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
)

// Defaults are those of components' settings, by type.
type Defaults struct {
	QuarantineRecordBytes, ExporterRecordBytes int
}

// queued are exporters whose sending_queue is on unless it is said to be off.
var queued = []string{"otlp", "otlphttp", "otlp_grpc", "otlp_http", "kafka", "loadbalancing"}

// Check returns what is wrong with the pipelines of a configuration whose variables are resolved; each error names its pipeline and the fix.
func Check(conf *confmap.Conf, defaults Defaults) error {
	all := conf.ToStringMap()
	pipelines := section(section(all, "service"), "pipelines")
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(pipelines)) {
		p := section(pipelines, name)
		sig, _, _ := strings.Cut(name, "/")
		var processors []Step
		for _, id := range list(p, "processors") {
			processors = append(processors, step(id, section(section(all, "processors"), id), defaults))
		}
		seen := map[string]bool{}
		for _, receiver := range list(p, "receivers") {
			for _, id := range list(p, "exporters") {
				exporter := step(id, section(section(all, "exporters"), id), defaults)
				for _, line := range lines(pipeline{Step{ID: receiver}, processors, exporter, sig == "logs"}.problems()) {
					if !seen[line] {
						seen[line] = true
						errs = append(errs, fmt.Errorf("service::pipelines::%s: %s", name, line))
					}
				}
			}
		}
	}
	return errors.Join(errs...)
}

func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// step reads a component's settings, as far as the rules ask for them.
func step(id string, settings map[string]any, d Defaults) Step {
	s := Step{ID: id}
	kind, _, _ := strings.Cut(id, "/")
	switch kind {
	case Validation:
		mode, _ := section(settings, "policy")["mode"].(string)
		s.Enforces = mode == "enforce" || settings["tenants"] != nil && settings["tenants"] != ""
	case Quarantine:
		s.MaxRecordBytes = number(settings, "max_record_bytes", d.QuarantineRecordBytes)
	case MSK:
		s.MaxRecordBytes = number(settings, "max_record_bytes", d.ExporterRecordBytes)
	}
	queue, set := settings["sending_queue"]
	of, _ := queue.(map[string]any)
	enabled, said := of["enabled"].(bool)
	s.Queues = set && queue != nil && (enabled || !said) || !set && slices.Contains(queued, kind)
	return s
}

func section(of map[string]any, key string) map[string]any {
	m, _ := of[key].(map[string]any)
	return m
}

func list(of map[string]any, key string) (out []string) {
	values, _ := of[key].([]any)
	for _, v := range values {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

func number(of map[string]any, key string, unset int) int {
	switch n := of[key].(type) {
	case int:
		return n
	case int64:
		return int(n)
	case float64:
		return int(n)
	}
	return unset
}
