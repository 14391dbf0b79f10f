package state

import "unsafe"

// SetNext moves the next offset to where no test can append its way to.
func (p *Partition) SetNext(next int64) { p.next = next }

// Sizes of what there are many of.
const (
	PartitionBytes = unsafe.Sizeof(Partition{})
	ProducerBytes  = unsafe.Sizeof(producer{})
)
