// Package probe is a small agent that measures a cell from outside. Every few seconds it sends one event of each signal by each protocol, compressed and not, each in a request of its
// own, and counts how many rows become of each in the stores: exactly one.
//
// It sends with what stock exporters are made of: pdata, net/http and grpc-go. Nothing of the gateway's is in it, so that what they misunderstand shows. It sends nothing again: a
// request that fails is a failure, and its event may be stored or not, but not twice.
//
// What it holds is bounded: a round is begun each interval, a request ends with its timeout, and an event is given up at twice the deadline.
package probe
