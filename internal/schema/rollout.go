package schema

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"time"

	"gopkg.in/yaml.v3"
)

const (
	// RolloutFile, at the top of a registry's location, says which version is in force.
	RolloutFile = "rollout.yaml"
	// VersionsDir holds a directory of each version, named by it. It is hidden: as plain files of the location, all versions would be one registry.
	VersionsDir = ".versions"

	rolloutBytesMax = 4 << 10
)

// Stage is how far a proposed version has come.
type Stage string

// The stages.
const (
	StageWarn    Stage = "warn"    // events are held against the current version, and counted where the proposed one would refuse them
	StageEnforce Stage = "enforce" // events are held against the proposed version, and counted where the current one would take them
	StageDone    Stage = "done"    // the proposed version is in force, and nothing is compared any more
)

// Rollout is the content of RolloutFile. Versions are what Registry.Version returns: the hash of their files, so that nobody takes a version of which a file is missing or
// another one.
type Rollout struct {
	Current string `yaml:"current"`
	// Proposed is empty where no version is on its way, and so is Stage.
	Proposed string `yaml:"proposed,omitempty"`
	Stage    Stage  `yaml:"stage,omitempty"`
	// Since is when the stage began. Another time is another attempt, whose counts begin anew.
	Since time.Time `yaml:"since,omitempty"`
	// LatencyBefore is the gateways' mean latency of a request before the first stage: for who watches the rollout, not for gateways.
	LatencyBefore time.Duration `yaml:"latency_before,omitempty"`
}

// InForce is the version that events are held against.
func (r Rollout) InForce() string {
	if r.Stage == StageEnforce || r.Stage == StageDone {
		return r.Proposed
	}
	return r.Current
}

var versionID = regexp.MustCompile(`^[0-9a-f]{12}$`)

// ParseRollout refuses what it does not understand: a gateway must not guess which version is in force.
func ParseRollout(content []byte) (Rollout, error) {
	var r Rollout
	if len(content) > rolloutBytesMax {
		return r, fmt.Errorf("has %d bytes, at most %d are allowed", len(content), rolloutBytesMax)
	}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&r); err != nil {
		return Rollout{}, err
	}
	switch {
	case !versionID.MatchString(r.Current):
		return r, fmt.Errorf("current: is %q, want a version: 12 hex digits", r.Current)
	case r.Proposed == "" && r.Stage != "":
		return r, fmt.Errorf("stage: is %q, and proposed names no version", r.Stage)
	case r.Proposed == "":
		return r, nil
	case !versionID.MatchString(r.Proposed):
		return r, fmt.Errorf("proposed: is %q, want a version: 12 hex digits", r.Proposed)
	case r.Proposed == r.Current:
		return r, errors.New("proposed: is the current version")
	case r.Stage != StageWarn && r.Stage != StageEnforce && r.Stage != StageDone:
		return r, fmt.Errorf("stage: is %q, want %s, %s or %s", r.Stage, StageWarn, StageEnforce, StageDone)
	}
	return r, nil
}

// Marshal returns the file's content.
func (r Rollout) Marshal() []byte {
	b, err := yaml.Marshal(r)
	if err != nil {
		panic(err) // texts, a time and a duration
	}
	return append([]byte("# Written by `pulsegrid job run rollout`. Versions are directories of "+VersionsDir+"/.\n"), b...)
}
