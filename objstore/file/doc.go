// Package file is a bucket in a directory, for one machine: development, tests, small installations on a local disk.
// The key is the path below the root, so the objects can be read and copied with ordinary tools.
//
// # A put
//
//	make the directories of the key   fsync the parent of each, once per directory and process
//	write <root>/.tmp/<own>/<n>       fsync it
//	rename it to <root>/<key>         link instead of rename with IfAbsent: link refuses a taken name
//	fsync the directory
//
// DESIGN.md of objstore says what a crash leaves behind after each step. An fsync that failed is never repeated: the
// kernel may have dropped the pages and then answers success. A temp file whose fsync failed is removed; a directory
// whose fsync failed takes no more puts until the process has restarted.
//
// # Sharing a root
//
// Each open Bucket owns a directory below .tmp and holds a lock on it. Open removes those whose lock is free: they are
// left over from a crash. So several processes of one machine may use one root; a network file system is not supported.
//
// # Keys refused beyond the contract
//
// All with objstore.ErrInvalid: an element longer than 255 bytes; the first element ".tmp"; a put of "a" where "a/b" was
// ever put, or of "a/b" where "a" is, since a path is a file or a directory. Directories stay when their last object is
// deleted: removing them would race with puts. On a file system that ignores case, keys must not differ by case alone.
//
// # What the contract leaves open
//
// Tags and storage classes of a put are dropped; a lock is refused with objstore.ErrInvalid, since a file cannot be kept from
// whoever owns it. A call checks its context between steps; one system call on a stuck disk cannot be interrupted. A delete is not
// fsynced: after a power cut a deleted object may be back.
package file
