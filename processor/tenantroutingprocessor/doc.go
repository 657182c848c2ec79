// Package tenantroutingprocessor decides where the data of a request's tenant goes: into the fast lane within the tenant's quota, into the overflow
// lane up to its burst, and beyond that back to the sender, with the time to come again. It takes envelopes and plain pdata of any receiver.
//
//	processor.go  a request -> its tenant, decision and stamps
//	limiter.go    quotas: one set of buckets for each tenant and signal
//	spoof.go      attributes by which a request may claim to be another tenant's
//	shared.go     what the processors of one configured component share
//	telemetry.go  what is counted
package tenantroutingprocessor
