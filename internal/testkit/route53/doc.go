// Package route53 is a DNS server that answers as Amazon Route 53 does, for drills with several cells, and a resolver that heeds its TTLs.
//
//	server.go    latency records: of a name's records, the nearest healthy one; all of them where none is healthy
//	check.go     health checks over HTTP: interval, threshold, several checkers
//	resolver.go  a sender's side: asks, keeps answers for their TTL, dials
//
// What is taken over from the documentation of Route 53: an endpoint answers 2xx or 3xx within 2 s of a connection, which must stand within 4 s; a checker changes its mind after
// as many equal answers in a row as the threshold says; an endpoint is healthy while more than 18 % of the checkers find it so, and until they know better; where all
// records of a name are unhealthy, they count as healthy.
package route53
