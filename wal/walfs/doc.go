// Package walfs is a file system in memory for package wal that loses power, for crash tests and the simulator.
//
// It models what a log may assume of a local disk and nothing kinder:
//
//   - Written bytes are visible at once and durable after Sync, in sectors of 512 bytes that are never torn. Before
//     that, each sector on its own may or may not have reached the disk, and so may the size.
//   - A created, renamed or removed name is durable after SyncDir. Before that each such step, on its own, may or may not
//     have; a rename is one step. Syncing a file does not make its name durable.
//   - A Sync that fails leaves the written sectors visible but marks them clean: a later Sync returns nil and does not
//     write them, as Linux does. Some of them may be on the disk.
//   - A write that fails may have written a part.
//
// A fault is a function that sees each [Op] before it happens: it can return an error (EIO, ENOSPC), call
// [FS.PowerOff], or block (a slow disk). [FS.Restart] gives the disk as the next start finds it.
package walfs
