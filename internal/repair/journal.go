package repair

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/journal"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
)

// JournalTopic holds an entry for each item that has been sent again, under the item's key.
const JournalTopic = "quarantine.repairs.v1"

// transactionalID is one for all operators: who begins later fences who began earlier, so that there is one at a time.
const transactionalID = "pulsegrid-quarantine-repair"

// entry is what the journal says of an item.
type entry struct {
	State   string    `json:"state"`             // intent or done
	Done    []int     `json:"done,omitempty"`    // ordinals of the events that have been sent
	Doing   []int     `json:"doing,omitempty"`   // of an intent: those that are being sent
	Attempt string    `json:"attempt,omitempty"` // of an intent: what its record names
	Rules   string    `json:"rules,omitempty"`   // the file's name, for people
	At      time.Time `json:"at"`
}

const (
	stateIntent = "intent"
	stateDone   = "done"
)

// keyOf names an item, in the journal and in the record that is sent.
func keyOf(topic string, i quarantine.Item) string { return topic + "/" + i.Place() }

// ErrFenced: another operator has begun to repair.
var ErrFenced = errors.New("another operator has begun to repair after this one: this run has stopped; what it sent is in the journal")

func fenced(err error) error {
	if errors.Is(err, journal.ErrFenced) {
		return fmt.Errorf("%w (%w)", ErrFenced, err)
	}
	return err
}

// resolve finds out which intents without an end were carried out: the record that they were about names them.
func resolve(ctx context.Context, j *journal.Journal[entry], client *kgo.Client, topics []string) error {
	open := map[string]string{} // attempt -> key
	var since time.Time
	for key, e := range j.Entries {
		if e.State != stateIntent {
			continue
		}
		open[e.Attempt] = key
		if since.IsZero() || e.At.Before(since) {
			since = e.At
		}
	}
	if len(open) == 0 {
		return nil
	}
	done := map[string]entry{}
	for _, topic := range topics {
		err := quarantine.Read(ctx, client, topic, since.Add(-clockSlack), func(i quarantine.Item) error {
			if key, ok := open[i.Repaired]; ok && i.Repaired != "" {
				e := j.Entries[key]
				done[key] = entry{State: stateDone, Done: append(e.Done, e.Doing...), At: time.Now().UTC(), Rules: e.Rules}
			}
			return nil
		})
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			continue // nothing was ever sent there
		}
		if err != nil {
			return fmt.Errorf("look for what an interrupted repair has sent: %w", err)
		}
	}
	if len(done) == 0 {
		return nil
	}
	return fenced(j.Write(ctx, done))
}

// clockSlack is how much an operator's clock may be ahead of the brokers'.
const clockSlack = 10 * time.Minute
