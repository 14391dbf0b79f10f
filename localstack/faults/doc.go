// Package faults runs whole clusters, as localstack has them, and takes their parts away one after the other while stock clients work
// through the load balancer. Its tests need MinIO, etcd and HAProxy as programs (build tag interop; .ci/interop).
package faults
