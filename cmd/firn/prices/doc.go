// Package prices is the table of what a bucket costs, for firn bucket cost: by storage class what storing and reading takes, and by
// kind what requests take. It is a small YAML file that people edit (default.yaml is the one built in), without I/O here.
package prices
