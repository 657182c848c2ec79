package clickhouseexporter

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// lookAtToolViews creates the views for tools and replaces those of another version: they hold nothing. No row depends on them, so an exception of ClickHouse (a right
// that the user lacks, a table of somebody's own by that name) is a warning. Only where ClickHouse did not answer is an error returned: the next look tries again.
func (s *schema) lookAtToolViews(ctx context.Context) error {
	for _, v := range s.tools {
		err := s.lookAtToolView(ctx, v)
		var se *storeError
		if errors.As(err, &se) && (se.code == codeNetwork || se.code == codeHTTP) {
			return notStored("view "+s.name(v.Name), err)
		}
		if err != nil {
			s.logger.Warn("a view for Grafana, ClickStack and BI tools is not as it should be; what is stored does not depend on it. tool_views: false silences this",
				zap.String("view", s.name(v.Name)), zap.Error(err))
		}
	}
	return nil
}

func (s *schema) lookAtToolView(ctx context.Context, v columns.ToolView) error {
	type viewRow struct {
		Engine  string `json:"engine"`
		Comment string `json:"comment"`
	}
	found, err := rows[viewRow](ctx, s.client, "SELECT engine, comment FROM system.tables WHERE database = {database:String} AND name = {table:String}", s.key(v.Name))
	if err != nil {
		return fmt.Errorf("read its definition: %w", err)
	}
	exists := len(found) > 0
	switch {
	case exists && found[0].Comment == v.Definition():
		return nil
	case exists && (found[0].Engine != "View" || !columns.IsToolView(found[0].Comment)):
		return fmt.Errorf("something else has this name (engine %s, comment %q): move it away, or keep it", found[0].Engine, found[0].Comment)
	case s.cfg.Schema != SchemaCreate && exists:
		return errors.New("it is of another version: set schema: create, or replace it")
	case s.cfg.Schema != SchemaCreate:
		return errors.New("it does not exist: set schema: create, or create it")
	}
	if err := s.client.exec(ctx, v.DDL(ddlOptions(s.cfg), exists)); err != nil {
		return fmt.Errorf("create it: %w", err)
	}
	s.logger.Info("created the view", zap.String("view", s.name(v.Name)))
	return nil
}
