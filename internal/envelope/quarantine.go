package envelope

// Headers that a record of the quarantine topic has besides those of the record that it was.
const (
	HeaderQuarantineCode   = "quarantine_code"   // short and fixed: what a machine may branch on
	HeaderQuarantineReason = "quarantine_reason" // for people
	HeaderOriginTopic      = "origin_topic"
	HeaderOriginPartition  = "origin_partition"
	HeaderOriginOffset     = "origin_offset"
	HeaderOriginTimestamp  = "origin_timestamp" // of the record in its topic, Unix nanoseconds
	HeaderOriginGroup      = "origin_group"     // consumer group that could not store it: other stores may have it
)

// QuarantineHeader tells whether a header belongs to the quarantine rather than to the original record.
func QuarantineHeader(key string) bool {
	switch key {
	case HeaderQuarantineCode, HeaderQuarantineReason, HeaderOriginTopic, HeaderOriginPartition, HeaderOriginOffset, HeaderOriginTimestamp, HeaderOriginGroup:
		return true
	}
	return false
}
