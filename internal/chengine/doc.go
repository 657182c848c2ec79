// Package chengine runs the ClickHouse engine as a child process, without cgo and without installing a server: libchdb.so holds
// the whole program, and this package makes a host of it that serves ClickHouse's own HTTP and native interfaces on 127.0.0.1.
//
// The child is the caller's own binary, started again: the first statement of main (or of TestMain) is
//
//	chengine.RunChildIfAsked()
//
// which does nothing in an ordinary run. Start then starts the child and returns when it answers. It ends cleanly when its
// standard input closes, and is killed by the kernel when its parent dies; committed parts survive a kill.
//
// Differences from a stock server: no access storage (CREATE USER), no Keeper (Replicated tables), and file() reads any path
// that the process may read. Create tables in a database of your own: `default` is an overlay of files. An exception of a connection
// outside of a query ends the process: a reset in the middle of a request's header, for example, or anywhere in the native protocol.
// Clients that may do such things belong behind a proxy (internal/cell has one).
//
// With the build tag noengine the program needs no C library, and Start fails: releases and images are built so.
//
// Reading order: engine.go (the parent's side), config.go (what the child is told), child.go and host.go (the child's side), library.go.
package chengine
