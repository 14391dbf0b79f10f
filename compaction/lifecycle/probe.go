package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/firnlog/firn/objstore"
)

// classesMax bounds how many storage classes the store is asked about: no store has as many that read at once.
const classesMax = 32

// classProbe is where tiny objects are put, each in one class.
const classProbe = "probe/storage-class/"

// AskClasses finds out which storage classes that topics ask for the store refuses, by putting a tiny object in each and deleting it. Those
// in known it has taken before, and is not asked again; what it takes now is added. The error is one that asking again may mend.
func AskClasses(ctx context.Context, bucket objstore.Bucket, topics []Topic, known map[string]bool) (refused map[string]error, err error) {
	ask := make(map[string]bool)
	for i := range topics {
		if class := topics[i].Settings.StorageClass; class != "" && !known[class] {
			ask[class] = true
		}
	}
	classes := slices.Sorted(maps.Keys(ask))
	refused = make(map[string]error)
	for _, class := range classes[:min(len(classes), classesMax)] {
		key := classProbe + class
		err := bucket.Put(ctx, key, []byte("firn asks whether this storage class is known\n"), objstore.PutOptions{StorageClass: class})
		switch {
		case err == nil:
			known[class] = true
			_ = bucket.Delete(ctx, key) // what a lock or a missing permission keeps is a few bytes, once for each class
		case errors.Is(err, objstore.ErrInvalid), errors.Is(err, objstore.ErrDenied):
			refused[class] = err
		default:
			return nil, fmt.Errorf("put an object in storage class %s: %w", class, err)
		}
	}
	return refused, nil
}
