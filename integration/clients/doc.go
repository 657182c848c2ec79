// Package clients holds what stock OpenTelemetry clients emitted, by their own count, against what both stores have of it. The clients send
// records that are equal in everything on purpose. Each runs once plainly and once behind a proxy that loses a tenth of the answers, so that
// it repeats requests that had been taken.
//
// docs/clients.md is the outcome: go test ./integration/clients -args -scale 5 -table
package clients
