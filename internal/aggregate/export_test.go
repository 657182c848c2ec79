package aggregate

// CheckQuery is checkQuery for ClickHouse, for tests that need an engine.
func CheckQuery(sql string) error { return checkQuery(EngineClickHouse, sql) }
