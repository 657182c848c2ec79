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
	goleak.VerifyTestMain(leaktest.Patient(m))
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
