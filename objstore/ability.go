package objstore

import "context"

// What follows are abilities that some buckets have beside Bucket. As finds them behind decorators.

// Unwrapper is a decorator that says what it decorates, so that abilities are found behind it.
type Unwrapper interface {
	Unwrap() Bucket
}

// As returns the outermost bucket, of b and what it decorates, that has the ability T. What a decorator does to calls of
// Bucket it does not do to those of an ability.
func As[T any](b Bucket) (T, bool) {
	for b != nil {
		if able, ok := b.(T); ok {
			return able, true
		}
		decorator, ok := b.(Unwrapper)
		if !ok {
			break
		}
		b = decorator.Unwrap()
	}
	var none T
	return none, false
}

// Expiry is a rule of the store's own by which objects of a bucket vanish without firn's doing.
type Expiry struct {
	Rule       string // its name in the store; "" where it has none
	Prefix     string // in the store's names; "" for all objects
	TaggedOnly bool   // only objects that carry certain tags; firn's carry none
	What       string // what it does and when, such as "deletes after 7 days"
}

// ExpiryReader says which of the store's own rules take away objects of the bucket. An error is one of this package's; stores
// that know no such rules answer ErrInvalid, those that do not let us read them ErrDenied.
type ExpiryReader interface {
	Expiries(ctx context.Context) ([]Expiry, error)
}

// Warner says what an operator should know about a bucket that works, one line each.
type Warner interface {
	Warnings() []string
}
