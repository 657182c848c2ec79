package clickhousetest_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pulsegrid/pulsegrid/internal/chengine"
	"github.com/pulsegrid/pulsegrid/internal/testkit/clickhousetest"
	"github.com/pulsegrid/pulsegrid/internal/testkit/leaktest"
)

func TestMain(m *testing.M) {
	chengine.RunChildIfAsked()
	goleak.VerifyTestMain(leaktest.Patient(clickhousetest.Sharing(m)))
}

func TestAKilledEngineComesBackWithItsDataOnItsPort(t *testing.T) {
	s := clickhousetest.Start(t)
	url := s.URL
	s.Exec("CREATE DATABASE d")
	s.Exec("CREATE TABLE d.t (x UInt64, m Map(String, Int64)) ENGINE = MergeTree ORDER BY x")
	s.Exec("INSERT INTO d.t VALUES (1, {'a': 2}), (3, {})")
	s.Kill()
	s.Kill()
	_, err := s.Try("SELECT 1")
	require.Error(t, err)
	s.Restart()
	require.Equal(t, url, s.URL)
	require.EqualValues(t, 2, s.QueryInt("SELECT count() FROM d.t"))
	require.Len(t, s.QueryRows("SELECT x, m FROM d.t ORDER BY x"), 2)
	_, err = s.Try("SELECT * FROM d.gone")
	require.ErrorContains(t, err, "UNKNOWN_TABLE")
	s.Stop()
	require.Zero(t, s.PID())
}

// Guarantees: tests that share an engine find it empty, whatever the one before has left; no two have it at once; none can end it.
func TestTestsThatShareAnEngineFindItEmpty(t *testing.T) {
	url := ""
	for range 2 {
		t.Run("one of them", func(t *testing.T) {
			s := clickhousetest.Shared(t)
			require.Contains(t, []string{"", s.URL}, url)
			url = s.URL
			s.Exec("CREATE DATABASE d1")
			s.Exec("CREATE TABLE d1.t (x UInt64) ENGINE = MergeTree ORDER BY x AS SELECT 1")
		})
	}
	for what, do := range map[string]func(t testing.TB, s *clickhousetest.Server){
		"lends it":  func(t testing.TB, _ *clickhousetest.Server) { clickhousetest.Shared(t) },
		"kills it":  func(_ testing.TB, s *clickhousetest.Server) { s.Kill() },
		"stops it":  func(_ testing.TB, s *clickhousetest.Server) { s.Stop() },
		"starts it": func(_ testing.TB, s *clickhousetest.Server) { s.Restart() },
	} {
		t.Run(what, func(t *testing.T) {
			f := &fatal{TB: t}
			s := clickhousetest.Shared(f)
			require.PanicsWithValue(t, f, func() { do(f, s) })
			_, err := s.Try("SELECT 1")
			require.NoError(t, err)
		})
	}
}

// fatal is a test that tells by a panic that it has failed.
type fatal struct{ testing.TB }

func (f *fatal) Fatal(...any) { panic(f) }
