package state

// interned gives each of a few values that many things have a number, until nothing has it any more.
type interned[T comparable] struct {
	values  []T // by number; zero where it is free
	holders []uint32
	free    []uint32
	numbers map[T]uint32
}

func newInterned[T comparable]() interned[T] { return interned[T]{numbers: make(map[T]uint32)} }

// hold returns the value's number, which stays its own until as many calls of drop.
func (x *interned[T]) hold(value T) uint32 {
	number, known := x.numbers[value]
	if !known {
		if last := len(x.free) - 1; last >= 0 {
			number, x.free = x.free[last], x.free[:last]
		} else {
			number = uint32(len(x.values))
			x.values, x.holders = append(x.values, value), append(x.holders, 0)
		}
		x.values[number] = value
		x.numbers[value] = number
	}
	x.holders[number]++
	return number
}

func (x *interned[T]) drop(number uint32) {
	if x.holders[number]--; x.holders[number] > 0 {
		return
	}
	delete(x.numbers, x.values[number])
	var none T
	x.values[number] = none
	x.free = append(x.free, number)
}
