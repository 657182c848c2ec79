package chengine

import (
	"fmt"
	"os"
	"path/filepath"
)

// LibraryEnv names a libchdb.so other than the installed one.
const LibraryEnv = "PULSEGRID_CLICKHOUSE_LIB"

// version of the library that tools/install.sh installs: CHDB_VERSION of tools/versions.env, which a test compares.
const version = "26.7.3-stable.1"

// FindLibrary returns the path of libchdb.so: $PULSEGRID_CLICKHOUSE_LIB, else the one in $PULSEGRID_CACHE (default
// ~/.cache/pulsegrid). Where there is none, the error says how to install it.
func FindLibrary() (string, error) {
	if path := os.Getenv(LibraryEnv); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("chengine: $%s: %w", LibraryEnv, err)
		}
		return filepath.Abs(path)
	}
	path, err := Installed("clickhouse-"+version, "libchdb.so")
	if err != nil {
		return "", fmt.Errorf("chengine: the ClickHouse engine is not installed: run `make tools` (tools/install.sh clickhouse) or name a libchdb.so in $%s: %w", LibraryEnv, err)
	}
	return path, nil
}

// Installed returns the path of a file that tools/install.sh has installed: in $PULSEGRID_CACHE (default ~/.cache/pulsegrid), in a folder of its part.
func Installed(folder, file string) (string, error) {
	cache := os.Getenv("PULSEGRID_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("there is no cache directory: %w", err)
		}
		cache = filepath.Join(base, "pulsegrid")
	}
	path := filepath.Join(cache, folder, file)
	if _, err := os.Stat(path); err != nil {
		return "", err
	}
	return filepath.Abs(path)
}
