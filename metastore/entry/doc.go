// Package entry is the wire form of the metastore's log: one immutable entry with its list of ops.
//
// An agent encodes each op once, with an Encoder, as soon as it is proposed, and commits an Entry's head (AppendTo) with as many
// of them behind it as fit. Every agent reads the same bytes with a Decoder and gives them to metastore/state. The bytes, not the structs, are what the
// chain hash covers and what the archive keeps.
//
// entry.proto in this folder is the specification. The codec is written by hand because a commit names hundreds of
// batches and a reflective decoder would allocate for each: a Decoder reuses its arenas and allocates nothing per batch.
// A test decodes every golden file with both.
//
// # What a reader accepts
//
// Strictly what a writer makes: fields in ascending order, singular fields once, repeated scalars packed. A field, op,
// flag or format that this build does not know is an error of its own (ErrNewerFormat, ErrUnknownOp) and never skipped:
// skipping would let two agents compute different states from the same entry. A new field may therefore be written only
// under a feature level that every agent understands.
//
// Decoding also checks shape, so that metastore/state can index without fear: identifiers are 16 bytes, columns of a
// block are equally long, spans and sizes are positive, runs lie within the columns in ascending order, rows of a
// relocation are ascending inside its range. Whether an op makes sense against the state is decided there, not here.
package entry
