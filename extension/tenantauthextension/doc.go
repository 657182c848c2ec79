// Package tenantauthextension is the server authenticator `tenant_auth`, and holds the registry of tenants for all components of the
// gateway (tenant.Registry). A request's credentials make it a tenant's: an API key, an OIDC token or a client certificate.
//
//	extension.go     lifecycle; the registry, read again every few seconds
//	authenticate.go  a request's headers and connection -> the tenant, or why not
//	oidc.go          tokens of OIDC issuers
//	guesses.go       how often an address may be wrong
//	telemetry.go     what is counted
//
// Credentials are in no log, metric or error.
package tenantauthextension
