package drain

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
)

// Scenario: gateways that take events, one that was started between two looks, one that does not answer.
// Guarantees: a cell's load is what its gateways took in between; one whose gateway does not answer is not known.
func TestTheLoadOfCellsIsWhatTheirGatewaysTake(t *testing.T) {
	looks := map[string]int{}
	scrape := func(_ context.Context, url string) (map[string]*dto.MetricFamily, error) {
		looks[url]++
		n := looks[url]
		const head = "# TYPE otelcol_ingest_events counter\n"
		switch url {
		case "http://a":
			return exposed(t, head+fmt.Sprintf("otelcol_ingest_events{signal=\"logs\"} %d\notelcol_ingest_events{signal=\"traces\"} %d\n", 1000*n, 500*n)), nil
		case "http://b": // it is started anew
			return exposed(t, head+fmt.Sprintf("otelcol_ingest_events{signal=\"logs\"} %d\n", 5000/(n*n))), nil
		}
		return nil, errors.New("connection refused")
	}
	cells := []Cell{
		{Name: "eu-1", Jurisdiction: "eu", Gateways: []string{"http://a"}, Capacity: Capacity{EventsPerSecond: 90_000}}, {Name: "eu-2", Jurisdiction: "eu", Gateways: []string{"http://b"}},
		{Name: "us-1", Jurisdiction: "us", Gateways: []string{"http://c"}},
	}
	var loads []Load
	for i := range cells { // one after the other: the fake counts looks
		l, err := Loads(t.Context(), cells[i:i+1], scrape, 100*time.Millisecond)
		require.NoError(t, err)
		loads = append(loads, l...)
	}
	require.InEpsilon(t, 15_000, loads[0].Events, 0.5)
	require.Equal(t, 90_000.0, loads[0].Capacity)
	require.InEpsilon(t, 12_500, loads[1].Events, 0.5)
	require.Equal(t, "http://c: its metrics cannot be read: connection refused\nconnection refused", loads[2].Error)
}

// Guarantees: a cell may be lost only if the others of its jurisdiction have room for its load, at the peak too; what is not known is not enough.
func TestTheOthersMustHaveRoomForACell(t *testing.T) {
	loads := []Load{
		{Cell: "eu-1", Jurisdiction: "eu", Events: 100, Capacity: 250}, {Cell: "eu-2", Jurisdiction: "eu", Events: 120, Capacity: 200}, {Cell: "us-1", Jurisdiction: "us", Events: 10, Capacity: 900},
	}
	problems := func(times float64) (out []string) {
		for _, l := range WithoutEach(loads, times) {
			out = append(out, l.Problem)
		}
		return out
	}
	const only = "it is the only cell of us"
	require.Equal(t, []string{"the others can take 80 events/s more, and it takes 100", "", only}, problems(1))
	require.Equal(t, []string{"", "", only}, problems(0.8))
	require.Equal(t, []string{"the others can take 0 events/s more, and it takes 200", "the others can take 50 events/s more, and it takes 240", only}, problems(2))
	loads[1].Capacity = 0
	require.Equal(t, []string{"the list of cells does not say what eu-2 can take (capacity: events_per_second)", "", only}, problems(1))
	loads[0].Error = "http://x: its metrics cannot be read: gone"
	require.Equal(t, loads[0].Error, problems(1)[1])
}
