package conformance

import (
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// twoLogs is a request of two log records, the first of which has these members.
func twoLogs(members string) string {
	return `{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},"scopeLogs":[{"scope":{"name":"n"},"logRecords":[{` + members +
		`},{"timeUnixNano":"2","body":{"stringValue":"beside it"}}]}]}]}`
}

func twoSpans(members string) string {
	return `{"resourceSpans":[{"scopeSpans":[{"spans":[{` + members + `},{"name":"beside it"}]}]}]}`
}

func metric(members string) string {
	return `{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m",` + members + `},{"name":"beside it","gauge":{"dataPoints":[{"asInt":"1"}]}}]}]}]}`
}

func (tb *table) json() {
	body := func(s signal.Signal, why reason, name, text string) {
		tb.add(why, input{name: "JSON, " + name, signal: s, raw: post(s, typeJSON, "", []byte(text))})
	}
	logs := func(why reason, name, text string) { body(signal.Logs, why, name, text) }
	tb.jsonBodies(logs)
	value := func(why reason, name, value string) {
		logs(why, name, twoLogs(`"attributes":[{"key":"k","value":`+value+`}]`))
	}
	tb.jsonValues(value)
	member := func(why reason, name, members string) { logs(why, name, twoLogs(members)) }
	tb.jsonRecords(member)
	tb.jsonMetrics(func(why reason, name, members string) { body(signal.Metrics, why, name, metric(members)) })
	tb.jsonSpans(func(why reason, name, members string) { body(signal.Traces, why, name, twoSpans(members)) })
}

// jsonBodies are what is sent instead of a request, or beside it.
func (tb *table) jsonBodies(add func(why reason, name, text string)) {
	one := twoLogs(`"timeUnixNano":"1"`)
	add("", "empty body", "")
	add("", "white space only", " \n")
	add("", "an empty object", "{}")
	add(otherJSON, "null", "null")
	add("", "a list", "["+one+"]")
	add("", "a text", `"hello"`)
	add("", "a number", "7")
	add(secondValue, "two requests", one+one)
	add(secondValue, "two requests, one a line", one+"\n"+one+"\n")
	add(secondValue, "garbage behind the request", one+" trailing {{{")
	add(secondValue, "a bracket behind the request", one+"}")
	add("", "white space around the request", "\r\n\t "+one+" \n")
	add(fallback, "a byte order mark", "\ufeff"+one)
	add("", "UTF-16", string(func() (b []byte) {
		for _, u := range utf16.Encode([]rune(one)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return b
	}()))
	add("", "cut short", one[:len(one)-20])
	add("", "a comma too many", strings.Replace(one, `}]}]}]}`, `},]}]}]}`, 1))
	add("", "a comma too few", strings.Replace(one, `},{`, `}{`, 1))
	add("", "single quotes", strings.ReplaceAll(one, `"`, `'`))
	add("", "names without quotes", strings.Replace(one, `"resourceLogs"`, `resourceLogs`, 1))
	add("", "a comment", "/* hi */"+one)
	add(otherKinds, "another document", `{"level":"info","msg":"hello"}`)
	add(otherKinds, "spans sent as logs", `{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"x"}]}]}]}`)
	add(otherKinds, "names from before OTLP 0.15", `{"resourceLogs":[{"instrumentationLibraryLogs":[{"logs":[{"body":{"stringValue":"old"}}]}]}]}`)
	add(otherKinds, "Amazon Data Firehose", `{"requestId":"r","timestamp":1,"records":[{"data":"AAAA"}]}`)
	add(otherKinds, "names in other cases", `{"ResourceLogs":[{"ScopeLogs":[{"LogRecords":[{}]}]}]}`)
	add("", "no resources", `{"resourceLogs":[]}`)
	add("", "resources that are null", `{"resourceLogs":null}`)
	add("", "a resource that is null", `{"resourceLogs":[null]}`)
	add("", "no scopes", `{"resourceLogs":[{"resource":{},"scopeLogs":[]}]}`)
	add("", "no records", `{"resourceLogs":[{"scopeLogs":[{"scope":{},"logRecords":[]}]}]}`)
	add("", "records that are null", `{"resourceLogs":[{"scopeLogs":[{"logRecords":null}]}]}`)
	add("", "resources that are an object", `{"resourceLogs":{}}`)
	add("", "a record that is a number", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[7]}]}]}`)
	add(wrongValue, "a record that is a number beside a good one", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[7,{}]}]}]}`)
	add("", "a wrong value in the resource", strings.Replace(one, `{"stringValue":"s"}`, `{"stringValue":7}`, 1))
	add("", "names of protobuf", `{"resource_logs":[{"scope_logs":[{"log_records":[{"time_unix_nano":"1","severity_text":"x"}]}]}]}`)
	add("", "an unknown name beside events", strings.Replace(one, `{"resourceLogs"`, `{"what":[1,{"a":null}],"resourceLogs"`, 1))
	add(emptyName, "an empty name", strings.Replace(one, `"resource":`, `"":1,"resource":`, 1))
	add("", "a list of events twice", `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":"a"}],"logRecords":[{"severityText":"b"}]}]}]}`)
	add("", "values nested 30 deep", strings.Replace(one, `"timeUnixNano":"1"`, `"body":`+strings.Repeat(`{"arrayValue":{"values":[`, 30)+`{}`+strings.Repeat(`]}}`, 30), 1))
	add(nesting, "values nested 100 deep", strings.Replace(one, `"timeUnixNano":"1"`, `"body":`+strings.Repeat(`{"arrayValue":{"values":[`, 100)+`{}`+strings.Repeat(`]}}`, 100), 1))
	add(nesting, "an unknown value nested 3,000 deep", strings.Replace(one, `"timeUnixNano":"1"`, `"what":`+strings.Repeat(`[`, 3000)+strings.Repeat(`]`, 3000), 1))
	add("", "a list nested 20,000 deep", strings.Repeat(`[`, 20_000))
}

// jsonValues are attributes' values.
func (tb *table) jsonValues(add func(why reason, name, value string)) {
	add("", "an integer as text", `{"intValue":"7"}`)
	add("", "an integer as a number", `{"intValue":7}`)
	add("", "the least integer", `{"intValue":"-9223372036854775808"}`)
	add("", "the largest integer as a number", `{"intValue":9223372036854775807}`)
	add(protoJSON, "an integer with an exponent", `{"intValue":1e3}`)
	add(protoJSON, "an integer with an exponent, as text", `{"intValue":"1e3"}`)
	add(protoJSON, "an integer with a fraction of zero", `{"intValue":7.0}`)
	add(wrongValue, "an integer with a fraction", `{"intValue":1.5}`)
	add(wrongValue, "an integer of 1e21, as JavaScript writes it", `{"intValue":1e+21}`)
	add(wrongValue, "an integer of 2 to the 63rd, as JavaScript writes it", `{"intValue":9223372036854776000}`)
	add(wrongValue, "an integer that is an empty text", `{"intValue":""}`)
	add(wrongValue, "an integer with a space", `{"intValue":" 7"}`)
	add("", "a double", `{"doubleValue":1.5}`)
	add("", "a double as text", `{"doubleValue":"1.5"}`)
	add("", "a double with an exponent", `{"doubleValue":1.5e300}`)
	add("", "NaN as text", `{"doubleValue":"NaN"}`)
	add("", "Infinity as text", `{"doubleValue":"Infinity"}`)
	add("", "-Infinity as text", `{"doubleValue":"-Infinity"}`)
	add(wrongValue, "NaN, bare", `{"doubleValue":NaN}`)
	add(wrongValue, "-Infinity, bare", `{"doubleValue":-Infinity}`)
	add(wrongValue, "a double beyond all doubles", `{"doubleValue":1e400}`)
	add(wrongValue, "a double as a hexadecimal text", `{"doubleValue":"0x10"}`)
	add(protoJSON, "a double that is null, as JavaScript writes NaN", `{"doubleValue":null}`)
	add(protoJSON, "an integer that is null", `{"intValue":null}`)
	add(protoJSON, "a text that is null", `{"stringValue":null}`)
	add("", "a value that is null", `null`)
	add("", "an empty value", `{}`)
	add("", "a boolean", `{"boolValue":true}`)
	add(wrongValue, "a boolean as text", `{"boolValue":"true"}`)
	add(wrongValue, "a boolean as a number", `{"boolValue":1}`)
	add(wrongValue, "a text that is a number", `{"stringValue":7}`)
	add(wrongValue, "a value that is a text", `"v"`)
	add("", "bytes", `{"bytesValue":"+/8="}`)
	add(protoJSON, "bytes in the alphabet of URLs", `{"bytesValue":"-_8="}`)
	add(protoJSON, "bytes without padding", `{"bytesValue":"+/8"}`)
	add(wrongValue, "bytes that are not base64", `{"bytesValue":"!"}`)
	add("", "a list of values", `{"arrayValue":{"values":[{"intValue":1},{"stringValue":"b"}]}}`)
	add("", "a list of values with null in it", `{"arrayValue":{"values":[{"intValue":1},null]}}`)
	add("", "a list without values", `{"arrayValue":{}}`)
	add("", "pairs", `{"kvlistValue":{"values":[{"key":"a","value":{"boolValue":true}}]}}`)
	add("", "two kinds of value", `{"stringValue":"a","intValue":1}`)
	add("", "a text twice", `{"stringValue":"a","stringValue":"b"}`)
	add("", "an unknown kind of value", `{"dateValue":"2026-11-28"}`)
	add("", "escapes", `{"stringValue":"\u00e9\ud83d\ude00\n\/\"\\"}`)
	add("", "half of a surrogate pair", `{"stringValue":"a\ud83dz"}`)
	add("", "a text with a zero", `{"stringValue":"a\u0000z"}`)
	add("", "an escape that is none", `{"stringValue":"\x41"}`)
	add("", "a line's end in a text", "{\"stringValue\":\"a\nb\"}")
	add("", "text that is not UTF-8", "{\"stringValue\":\"a\xff\xfe\"}")
	add("", "a number with a leading zero", `{"intValue":007}`)
	add("", "a number with a plus", `{"intValue":+7}`)
}

// jsonRecords are members of log records.
func (tb *table) jsonRecords(add func(why reason, name, members string)) {
	add("", "an empty record", ``)
	add("", "a time as text", `"timeUnixNano":"1795852800000000000"`)
	add("", "a time as a number", `"timeUnixNano":1795852800000000000`)
	add(protoJSON, "a time with an exponent", `"timeUnixNano":1.7958528e18`)
	add(wrongValue, "a time with a fraction", `"timeUnixNano":1795852800.5`)
	add(wrongValue, "a time below zero", `"timeUnixNano":-1`)
	add(wrongValue, "a time beyond 64 bits", `"timeUnixNano":"18446744073709551616"`)
	add(wrongValue, "a time as a date", `"timeUnixNano":"2026-11-28T00:00:00Z"`)
	add(protoJSON, "a time that is null", `"timeUnixNano":null`)
	add("", "an enum by number", `"severityNumber":9`)
	add("", "an enum by name", `"severityNumber":"SEVERITY_NUMBER_INFO"`)
	add("", "an enum by an unknown number", `"severityNumber":77`)
	add(wrongValue, "an enum by an unknown name", `"severityNumber":"LOUD"`)
	add(wrongValue, "an enum by a number as text", `"severityNumber":"9"`)
	add(protoJSON, "an enum that is null", `"severityNumber":null`)
	add("", "ids in lower case", `"traceId":"0102030405060708090a0b0c0d0e0fff","spanId":"0a0b0c0d0e0f0102"`)
	add("", "ids in upper case", `"traceId":"0102030405060708090A0B0C0D0E0FFF","spanId":"0A0B0C0D0E0F0102"`)
	add("", "empty ids", `"traceId":"","spanId":""`)
	add(protoJSON, "ids that are null", `"traceId":null,"spanId":null`)
	add(wrongValue, "ids in base64", fmt.Sprintf(`"traceId":%q,"spanId":%q`, base64ID(16), base64ID(8)))
	add(wrongValue, "a trace id of 8 bytes", `"traceId":"0102030405060708"`)
	add(wrongValue, "a span id of 16 bytes", `"spanId":"0102030405060708090a0b0c0d0e0f10"`)
	add(wrongValue, "a trace id that is not hexadecimal", `"traceId":"zz02030405060708090a0b0c0d0e0fff"`)
	add(wrongValue, "a body that is a text", `"body":"text"`)
	add("", "a body that is null", `"body":null`)
	add("", "attributes that are null", `"attributes":null`)
	add(wrongValue, "attributes that are an object", `"attributes":{"k":"v"}`)
	add("", "an attribute that is null", `"attributes":[null]`)
	add("", "an attribute twice", `"attributes":[{"key":"k","value":{"intValue":1}},{"key":"k","value":{"intValue":2}}]`)
	add("", "an attribute without a value", `"attributes":[{"key":"k"}]`)
	add("", "an attribute whose key is null", `"attributes":[{"key":null,"value":{"intValue":1}}]`)
	add("", "an unknown name", `"what":{"a":[1,2,{"b":"c"}]}`)
	add("", "a time twice", `"timeUnixNano":"1","timeUnixNano":"2"`)
	add("", "flags as text", `"flags":"1"`)
	add(wrongValue, "flags below zero", `"flags":-1`)
	add(wrongValue, "flags beyond 32 bits", `"flags":4294967296`)
}

func (tb *table) jsonMetrics(add func(why reason, name, members string)) {
	gauge := func(why reason, name, point string) { add(why, name, `"gauge":{"dataPoints":[{`+point+`}]}`) }
	gauge("", "a point with an integer as text", `"asInt":"7"`)
	gauge("", "a point with an integer as a number", `"asInt":-7`)
	gauge("", "a point with NaN as text", `"asDouble":"NaN"`)
	gauge("", "a point with Infinity as text", `"asDouble":"Infinity"`)
	gauge(protoJSON, "a point with null, as JavaScript writes NaN", `"asDouble":null`)
	gauge(wrongValue, "a point with a text", `"asDouble":"much"`)
	gauge(wrongValue, "a point with an integer of 1e21", `"asInt":1e+21`)
	gauge("", "a point with an exemplar", `"asDouble":1,"exemplars":[{"asInt":"1","traceId":"0102030405060708090a0b0c0d0e0fff","spanId":"0a0b0c0d0e0f0102","filteredAttributes":[{"key":"k"}]}]`)
	gauge("", "a point without a value", `"timeUnixNano":"1"`)
	add("", "a sum, temporality by name", `"sum":{"aggregationTemporality":"AGGREGATION_TEMPORALITY_DELTA","isMonotonic":true,"dataPoints":[{"asInt":"1"}]}`)
	add("", "a sum, temporality by number", `"sum":{"aggregationTemporality":2,"dataPoints":[{"asInt":"1"}]}`)
	add("", "a histogram, counts as text", `"histogram":{"dataPoints":[{"count":"3","sum":1.5,"bucketCounts":["1","2"],"explicitBounds":[1.5],"min":0,"max":2}]}`)
	add("", "a histogram, counts as numbers", `"histogram":{"dataPoints":[{"count":3,"sum":0,"bucketCounts":[1,2],"explicitBounds":["1.5"]}]}`)
	add(protoJSON, "a histogram whose sum is null", `"histogram":{"dataPoints":[{"count":3,"sum":null,"min":null,"max":null,"bucketCounts":[1,2],"explicitBounds":[1.5]}]}`)
	add(wrongValue, "a histogram with null in its counts", `"histogram":{"dataPoints":[{"bucketCounts":[1,null]}]}`)
	add("", "an exponential histogram", `"exponentialHistogram":{"dataPoints":[{"count":"3","scale":-2,"zeroCount":1,"positive":{"offset":-1,"bucketCounts":["1","1"]},"negative":{},"zeroThreshold":0.1}]}`)
	add("", "a summary", `"summary":{"dataPoints":[{"count":"3","sum":4.5,"quantileValues":[{"quantile":0.5,"value":1},{"quantile":1,"value":3}]}]}`)
	add("", "two kinds of data", `"gauge":{"dataPoints":[{"asInt":"1"}]},"sum":{"dataPoints":[{"asInt":"2"},{"asInt":"3"}]}`)
	add("", "a metric without data", `"unit":"s"`)
	add("", "a metric whose data are null", `"gauge":null`)
	add("", "a wrong value in the metric", `"unit":7,"gauge":{"dataPoints":[{"asInt":"1"}]}`)
}

func (tb *table) jsonSpans(add func(why reason, name, members string)) {
	add("", "a span of every kind of member", `"traceId":"0102030405060708090a0b0c0d0e0fff","spanId":"0a0b0c0d0e0f0102","parentSpanId":"0a0b0c0d0e0f0103","traceState":"a=b","flags":257,"name":"n","kind":"SPAN_KIND_SERVER",
"startTimeUnixNano":"1","endTimeUnixNano":"2","droppedAttributesCount":1,"events":[{"timeUnixNano":"1","name":"e","attributes":[{"key":"k","value":{"intValue":"1"}}]}],
"links":[{"traceId":"0102030405060708090a0b0c0d0e0fff","spanId":"0a0b0c0d0e0f0102","traceState":"","flags":1}],"status":{"code":"STATUS_CODE_ERROR","message":"m"}`)
	add("", "a kind by number", `"kind":2,"status":{"code":2}`)
	add("", "a parent that is empty", `"spanId":"0a0b0c0d0e0f0102","parentSpanId":""`)
	add("", "a parent of zeros", `"spanId":"0a0b0c0d0e0f0102","parentSpanId":"0000000000000000"`)
	add("", "a status that is empty", `"status":{}`)
	add("", "a status that is null", `"status":null`)
	add(wrongValue, "a wrong value in a span event", `"events":[{"timeUnixNano":"x"}]`)
	add(wrongValue, "a wrong id in a link", `"links":[{"traceId":"01"}]`)
	add("", "a span's name that is null", `"name":null`)
}
