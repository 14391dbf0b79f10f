// Package objstoretest is the acceptance suite of objstore.Bucket: what every driver and every decorator has to do.
//
// A driver's test calls Run with a function that makes an empty bucket:
//
//	func TestContract(t *testing.T) {
//		objstoretest.Run(t, func(t *testing.T) objstore.Bucket { return mem.New() })
//	}
//
// The suite closes the buckets it is given. Only tests may import this package.
package objstoretest
