package rig

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
)

// consumerGroups are those of distributions/aggregator/config.yaml: one for each store, of events and of both tables of the quarantine.
const consumerGroups = 6

// Behind says what a group has not committed of what its topics hold, or what is not known of that; empty: all groups have committed everything, so the stores have it.
func Behind(ctx context.Context, admin *kadm.Client) string {
	groups, err := admin.ListGroups(ctx)
	if err != nil {
		return err.Error()
	}
	lags, err := admin.Lag(ctx, groups.Groups()...)
	if err != nil {
		return err.Error()
	}
	if len(lags) < consumerGroups {
		return fmt.Sprintf("there are %d groups", len(lags))
	}
	for name, group := range lags {
		if err := group.Error(); err != nil {
			return err.Error()
		}
		if n := group.Lag.Total(); n != 0 || len(group.Members) == 0 {
			return fmt.Sprintf("group %s: %d records behind, %d members", name, n, len(group.Members))
		}
	}
	return ""
}
