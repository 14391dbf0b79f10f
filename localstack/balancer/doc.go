// Package balancer tests agents behind a load balancer, in one process and without one of the load balancers of this world: a
// forwarder gives each connection to another agent in turn, as the worst of them does, so that what one client sends over
// several connections, or over one after the other, reaches all agents.
package balancer
