// Package flood measures the memory of bin/firn, a process of its own, under clients that mean harm: ten thousand connections
// that say nothing, half of something, or something that is not Kafka; requests that ask for as much as they can; answers that
// nobody takes; bombs. A bystander produces and consumes all the while and must see no error, and the resident memory must not
// exceed 1.2 times what it was under ordinary load. It is a package of tests, with the build tag interop.
package flood
