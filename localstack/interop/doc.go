// Package interop holds tests against clients of other languages and against a firn that is killed while it works. They run
// under the build tag interop (make interop), because they need programs that `make test` must not ask for: kcat, Python with
// kafka-python, and Apache Kafka's own tools with Java.
package interop
