// Package mskexporter is the exporter `msk`: it writes OTLP export requests to Kafka, one record each, and returns when Kafka
// holds them durably. See README.md.
//
//	logs, metrics, traces --exporter.go--> envelopes --record.go--> records --produce.go--> acknowledged
//	                                        client.go: one Kafka client per configured exporter, its topics, its health
package mskexporter
