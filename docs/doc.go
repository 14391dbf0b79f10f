// Package docs holds the specifications that people read, and tests that hold the project to what it says of itself: who may
// import whom, that every package explains itself, and that the top level is what the design names.
package docs
