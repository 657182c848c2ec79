package envelope

// Kafka record headers of an OTLP record (docs/formats/kafka.md). Values are UTF-8 text; numbers are decimal.
const (
	HeaderTenant        = "tenant"
	HeaderSignal        = "signal"
	HeaderEvents        = "events"             // event count of the record
	HeaderReceivedNanos = "received_unix_nano" // when the gateway had read the request
	HeaderGateway       = "gateway"            // service.instance.id of the gateway
	HeaderLane          = "lane"
	HeaderSchemaVersion = "schema_version" // absent until validated
	HeaderJurisdiction  = "jurisdiction"   // where the tenant's data may be; absent: anywhere
	HeaderRepaired      = "repaired"       // which attempt to repair an item of the quarantine topic sent this; absent: an agent's request
	HeaderReplayed      = "replayed"       // TOPIC/PARTITION/OFFSET of the record that `pulsegrid job run replay --to-topic` has copied; absent: no copy
	HeaderRequest       = "request"        // binary: what request the events were part of (decision 0030); absent: the value is the whole request
	HeaderIDAttribute   = "id_attribute"   // log attribute that the tenant's registry entry declares to be unique; absent: none
	HeaderFrame         = "frame"          // 8 bytes: number, within its gateway's run, of the agent's zstd frame that the batch holds as it came
)

// Lanes of a record.
const (
	LaneFast     = "fast"
	LaneOverflow = "overflow"
	// LaneQuarantine is for what must not reach the stores' main tables: its records go to the quarantine topic.
	LaneQuarantine = "quarantine"
)
