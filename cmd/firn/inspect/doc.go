// Package inspect reads what firn leaves in the bucket and on disk and says what is in it and whether it is sound: the
// commands under `firn inspect`. docs/inspect.md describes what they print.
//
// A command is a function that reads an [Input] and gives items, one after the other, to an [Out]: a line of text, or a line
// of JSON whose field "type" names the item. Items go out as they are found, so an input that is larger than memory is no
// trouble where its format allows that. Damage is an item as well; it is counted, and what follows it is read as far as its
// own checksums hold. An error is what keeps a command from reading on: the input cannot be read, is of another format, or of
// a newer version.
//
// Nothing here changes, locks or repairs anything.
package inspect
