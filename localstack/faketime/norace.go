//go:build !race

package faketime

const raced = false
