// Package cellhealthextension is the extension `cell_health`: an HTTP endpoint that tells a DNS health check whether senders should come to this cell, and
// the operator's way to send them away. See README.md.
//
//	judge.go      looks -> a verdict that does not flap
//	checks.go     one look: the registry of tenants, and what components have asked to be watched for
//	drain.go      drain.yaml, watched
//	extension.go  the states, and the endpoint that tells them
package cellhealthextension
