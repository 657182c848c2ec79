// Package upkeep keeps the lake's tables fast beside their writers: small data files are put together, manifests are merged, and snapshots that nobody needs any more
// are expired, with the files that only they name.
//
// Each step is a commit of its own and can be done again at any time, so upkeep that was killed has done some of it. Rows do not change, and nor do the offsets that
// the lake exporter keeps: it reads them from the newest snapshot that moved a partition, else from the table's properties (exporter/icebergexporter/README.md).
package upkeep
