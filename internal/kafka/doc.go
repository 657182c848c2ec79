// Package kafka is what PulseGrid's Kafka producer and consumer share: how to connect (ClientConfig), what an error means for
// the caller (Classify), and how topics come to be (EnsureTopics). The client is franz-go.
package kafka
