package stored

import "crypto/tls"

// ClickHouseConfig reaches ClickHouse.
type ClickHouseConfig struct {
	URL      string // of the HTTP interface, http://host:8123
	Database string
	Username string
	Password string
	Group    string // consumer group that fills it
	// TLS is for https. Nil: the authorities that the system trusts.
	TLS *tls.Config
}

// LakeConfig reaches the Iceberg tables.
type LakeConfig struct {
	CatalogType string // sql, rest or glue
	CatalogName string
	CatalogURI  string // sql: file:/path/catalog.db; rest: the server's address
	Warehouse   string // file:///dir or s3://bucket/prefix
	// Properties are handed to iceberg-go: s3.endpoint, s3.region, s3.access-key-id, credential, token...
	Properties map[string]string
	Namespace  string
	Group      string // consumer group that fills it
}
