// Package catalogtest holds servers of Iceberg catalogs for tests: the part of the REST catalog's and of AWS Glue's API that PulseGrid uses. Clients,
// retries and the mapping of errors are the real ones.
package catalogtest
