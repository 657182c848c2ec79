// Package conformance sends one table of inputs, odd ones among them, both to the gateway's receiver and to the stock otlp receiver of the same Collector version, in one
// process, and compares what the sender hears and what is accepted: of the gateway, what is in Kafka when it answers.
//
// Each difference has a reason (reasons_test.go); docs/formats/otlp.md lists them. A difference without a reason fails the test, so does a reason without a
// difference, and a document that says otherwise: go test ./integration/conformance -update writes it.
//
//	inputs_test.go, json_test.go   the table
//	wire_test.go                   requests as bytes, and what comes back
//	peers_test.go                  the two receivers, and what each has accepted
//	reasons_test.go                why they differ
//	conformance_test.go            the comparison, and the document
package conformance

//go:generate go test . -run TestTheGatewayAnswersAsTheStockReceiver -update
