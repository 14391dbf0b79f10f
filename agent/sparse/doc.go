// Package sparse thins out log lines that would come once for each request or connection: of each kind one a minute, which
// says how many were left out since the last one. What happened is counted in metrics all the same; a flood of garbage must
// not become a flood of lines.
package sparse
