package envelope

import "context"

// Keeper puts the body of an envelope of LaneQuarantine that is too large for a record into an object store, and the object's URL in its place. Its error is
// worth another try.
type Keeper func(context.Context, *Envelope) error

type keeperKey struct{}

// WithKeeper returns ctx carrying a Keeper, for whoever finds that an event is too large.
func WithKeeper(ctx context.Context, keep Keeper) context.Context {
	return context.WithValue(ctx, keeperKey{}, keep)
}

// KeeperOf returns the Keeper that ctx carries; nil: what is too large cannot be kept.
func KeeperOf(ctx context.Context) Keeper {
	keep, _ := ctx.Value(keeperKey{}).(Keeper)
	return keep
}
