// Command localstack runs a whole cluster on this machine: etcd with three members, MinIO, HAProxy and agents, each a process of its
// own. `make localstack` builds what it needs and starts it.
//
// It stays in the foreground, says where everything is and what to try, starts again what ends (as systemd or Kubernetes would), and
// takes all down in order when it is interrupted: the agents drain, then HAProxy, MinIO and etcd end. A second interrupt ends all at
// once. Nothing outlives it, whatever happens to it. Data and logs stay in one directory; started again it goes on from there.
package main
