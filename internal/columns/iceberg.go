package columns

import (
	"fmt"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// NanosSuffix names the column that holds the nanoseconds (0 to 999) which a microsecond timestamp of Iceberg cannot.
const NanosSuffix = "_nanos"

// IcebergSchema is the schema to create the table with. Its field ids are those that iceberg-go gives a table that it creates, whatever the
// ids it is given: the columns in order, the nested fields of each before the next column. A REST server numbers as it likes.
func (t *Table) IcebergSchema() *iceberg.Schema { return t.ice }

func (t *Table) icebergSchema() *iceberg.Schema {
	var fields []iceberg.NestedField
	for i := range t.Columns {
		c := &t.Columns[i]
		fields = append(fields, iceberg.NestedField{ID: len(fields) + 1, Name: c.Name, Type: c.Kind.Iceberg(), Required: true, Doc: c.Doc})
		if c.Kind == Time {
			fields = append(fields, iceberg.NestedField{
				ID: len(fields) + 1, Name: c.Name + NanosSuffix, Type: iceberg.PrimitiveTypes.Int32, Required: true,
				Doc: "nanoseconds of " + c.Name + " below its microsecond, 0 to 999",
			})
		}
	}
	sc, err := iceberg.AssignFreshSchemaIDs(iceberg.NewSchema(0, fields...), nil)
	if err != nil {
		panic(fmt.Sprintf("columns: Iceberg schema of %s: %v", t.Name, err)) // the definition is at fault
	}
	for i := range t.Columns {
		c := &t.Columns[i]
		f, _ := sc.FindFieldByName(c.Name)
		c.FieldID = f.ID
		if c.Kind == Time {
			f, _ = sc.FindFieldByName(c.Name + NanosSuffix)
			c.NanosID = f.ID
		}
	}
	return sc
}

// IcebergPartitionSpec partitions by day(ingest_time) and bucket[buckets](tenant_id): the clocks of devices cannot make
// partitions, and a tenant's day is read, or deleted, from one bucket. Few buckets: each is a file per commit.
func (t *Table) IcebergPartitionSpec(buckets int) (iceberg.PartitionSpec, error) {
	if buckets < 1 {
		return iceberg.PartitionSpec{}, fmt.Errorf("columns: tenant buckets of table %s: %d, want at least 1", t.Name, buckets)
	}
	return iceberg.NewPartitionSpecOpts(
		iceberg.AddPartitionFieldByName("ingest_time", "ingest_day", iceberg.DayTransform{}, t.ice, nil),
		iceberg.AddPartitionFieldByName("tenant_id", "tenant_bucket", iceberg.BucketTransform{NumBuckets: buckets}, t.ice, nil),
	)
}

// IcebergSortOrder is tenant_id, service_name, time (of the quarantine: tenant_id, code, time), as in ClickHouse.
func (t *Table) IcebergSortOrder() (table.SortOrder, error) {
	var fields []table.SortField
	for _, name := range t.order {
		fields = append(fields, table.SortField{
			SourceIDs: []int{t.Columns[t.index[name]].FieldID}, Transform: iceberg.IdentityTransform{},
			Direction: table.SortASC, NullOrder: table.NullsFirst,
		})
	}
	return table.NewSortOrder(1, fields)
}

// CommonIcebergProperties are those that every table of the lake is created with, the ledger too.
func CommonIcebergProperties() iceberg.Properties {
	return iceberg.Properties{
		table.PropertyFormatVersion:               "2",
		table.ParquetCompressionKey:               "zstd",
		table.ParquetCompressionLevelKey:          "3",
		table.ManifestMergeEnabledKey:             "true",
		table.MetadataDeleteAfterCommitEnabledKey: "true",
		table.MetadataPreviousVersionsMaxKey:      "20",
		table.MetadataCompressionKey:              "gzip",
	}
}

// IcebergProperties are the properties to create the table with. Metrics (min, max) are kept only of the columns that queries
// prune by: those of the others would make up most of the metadata. No Parquet bloom filters: each takes 1 MiB of every file.
func (t *Table) IcebergProperties() iceberg.Properties {
	p := CommonIcebergProperties()
	p["write.metadata.metrics.default"] = "none"
	modes := map[string]string{
		"tenant_id": "truncate(16)", "service_name": "truncate(16)", "time": "full", "ingest_time": "full", "kafka_topic": "truncate(64)",
		"kafka_partition": "full", "kafka_offset": "full", "severity_number": "full", "metric_name": "truncate(32)", "duration_nano": "full", "code": "truncate(32)",
	}
	for name, mode := range modes {
		if _, ok := t.index[name]; ok {
			p["write.metadata.metrics.column."+name] = mode
		}
	}
	return p
}
