package aggregate

// CheckQuery is checkQuery, for tests that need an engine.
var CheckQuery = checkQuery
