package objstore

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// Limits of the contract, the same for every driver.
const (
	KeyBytesMax   = 1024 // length of a key
	ListLimitMax  = 1000 // objects in one answer of List
	DeleteKeysMax = 1000 // keys in one Delete

	TagsMax          = 10  // of one object
	TagKeyBytesMax   = 128 // stores count characters; bytes are never more generous
	TagValueBytesMax = 256
)

// ValidatePut checks the size and the options of a Put or PutFrom, all at once; an error wraps ErrInvalid.
func ValidatePut(size int64, opts PutOptions) error {
	var problems []error
	if size < 0 {
		problems = append(problems, fmt.Errorf("size %d is negative: %w", size, ErrInvalid))
	}
	problems = append(problems, ValidateTags(opts.Tags))
	switch opts.Lock.Mode {
	case LockNone:
		if !opts.Lock.Until.IsZero() {
			problems = append(problems, fmt.Errorf("a lock until %v without a mode: %w", opts.Lock.Until, ErrInvalid))
		}
	case LockGovernance, LockCompliance:
		if opts.Lock.Until.IsZero() {
			problems = append(problems, fmt.Errorf("a lock of mode %s without an end: %w", opts.Lock.Mode, ErrInvalid))
		}
	default:
		problems = append(problems, fmt.Errorf("lock mode %.40q is neither %s nor %s: %w", opts.Lock.Mode, LockGovernance, LockCompliance, ErrInvalid))
	}
	return errors.Join(problems...)
}

// ValidateVersioning checks a state that is to be set: off cannot be. An error wraps ErrInvalid.
func ValidateVersioning(state VersioningState) error {
	if state != VersioningEnabled && state != VersioningSuspended {
		return fmt.Errorf("versioning %q is neither %s nor %s: %w", state, VersioningEnabled, VersioningSuspended, ErrInvalid)
	}
	return nil
}

// ValidateLockSettings checks settings that are to be set; an error wraps ErrInvalid.
func ValidateLockSettings(s LockSettings) error {
	switch s.Mode {
	case LockNone:
		if s.Days != 0 || s.Years != 0 {
			return fmt.Errorf("a default retention of %d days and %d years without a mode: %w", s.Days, s.Years, ErrInvalid)
		}
	case LockGovernance, LockCompliance:
		if !s.Enabled {
			return fmt.Errorf("a default retention where object lock is not enabled: %w", ErrInvalid)
		}
		if s.Days < 0 || s.Years < 0 || (s.Days == 0) == (s.Years == 0) {
			return fmt.Errorf("a default retention of %d days and %d years; give one of them: %w", s.Days, s.Years, ErrInvalid)
		}
	default:
		return fmt.Errorf("lock mode %.40q is neither %s nor %s: %w", s.Mode, LockGovernance, LockCompliance, ErrInvalid)
	}
	return nil
}

// ValidateTags checks the tags of one object; an error wraps ErrInvalid.
func ValidateTags(tags []Tag) error {
	if len(tags) > TagsMax {
		return fmt.Errorf("%d tags, an object has at most %d: %w", len(tags), TagsMax, ErrInvalid)
	}
	seen := make(map[string]bool, len(tags))
	for _, t := range tags {
		switch {
		case t.Key == "" || len(t.Key) > TagKeyBytesMax:
			return fmt.Errorf("tag key %.40q of %d bytes, not in 1..%d: %w", t.Key, len(t.Key), TagKeyBytesMax, ErrInvalid)
		case len(t.Value) > TagValueBytesMax:
			return fmt.Errorf("tag %s has a value of %d bytes, at most %d: %w", t.Key, len(t.Value), TagValueBytesMax, ErrInvalid)
		case seen[t.Key]:
			return fmt.Errorf("tag %s twice: %w", t.Key, ErrInvalid)
		}
		seen[t.Key] = true
		for _, s := range []string{t.Key, t.Value} {
			if i := strings.IndexFunc(s, func(r rune) bool { return !isTagRune(r) }); i >= 0 {
				return fmt.Errorf("tag %s holds %q at position %d of %q, only letters, digits, spaces and + - = . _ : / @ may be used: %w",
					t.Key, s[i:i+1], i, s, ErrInvalid)
			}
		}
	}
	return nil
}

// isTagRune: what every store takes, and so no letters beyond ASCII.
func isTagRune(r rune) bool {
	return r < 0x80 && (isKeyByte(byte(r)) || strings.ContainsRune(" +:/@", r))
}

// ValidateKey returns nil for a key of the form that Bucket documents, else an error that wraps ErrInvalid and names
// the rule that was broken.
func ValidateKey(key string) error {
	if key == "" {
		return fmt.Errorf("key is empty: %w", ErrInvalid)
	}
	if err := validateElements("key", key); err != nil {
		return err
	}
	last := key[strings.LastIndexByte(key, '/')+1:]
	if problem := elementProblem(last); problem != "" {
		return fmt.Errorf("key %.80q %s: %w", key, problem, ErrInvalid)
	}
	return nil
}

// ValidateRange checks the arguments of GetRange; an error wraps ErrInvalid.
func ValidateRange(position, size int64) error {
	switch {
	case position < 0:
		return fmt.Errorf("position %d is negative: %w", position, ErrInvalid)
	case size <= 0:
		return fmt.Errorf("size %d is not positive: %w", size, ErrInvalid)
	case position > math.MaxInt64-size:
		return fmt.Errorf("position %d plus size %d overflows: %w", position, size, ErrRange)
	}
	return nil
}

// ValidateList checks the arguments of List; an error wraps ErrInvalid.
func ValidateList(prefix, after string, limit int) error {
	if limit <= 0 || limit > ListLimitMax {
		return fmt.Errorf("limit %d is not in 1..%d: %w", limit, ListLimitMax, ErrInvalid)
	}
	if err := validateElements("prefix", prefix); err != nil {
		return err
	}
	return validateElements("after", after)
}

// ValidateDelete checks the arguments of Delete; an error wraps ErrInvalid.
func ValidateDelete(keys []string) error {
	if len(keys) > DeleteKeysMax {
		return fmt.Errorf("%d keys in one delete, at most %d: %w", len(keys), DeleteKeysMax, ErrInvalid)
	}
	for _, key := range keys {
		if err := ValidateKey(key); err != nil {
			return err
		}
	}
	return nil
}

// validateElements accepts every string that a valid key can start with: all elements but the last are checked whole,
// the last only for its bytes.
func validateElements(what, s string) error {
	if len(s) > KeyBytesMax {
		return fmt.Errorf("%s %.80q… is %d bytes long, at most %d: %w", what, s, len(s), KeyBytesMax, ErrInvalid)
	}
	start := 0
	for i := range len(s) {
		c := s[i]
		if c == '/' {
			if problem := elementProblem(s[start:i]); problem != "" {
				return fmt.Errorf("%s %.80q %s: %w", what, s, problem, ErrInvalid)
			}
			start = i + 1
			continue
		}
		if !isKeyByte(c) {
			return fmt.Errorf("%s %.80q holds byte %#02x, only [A-Za-z0-9._=/-] may be used: %w", what, s, c, ErrInvalid)
		}
	}
	return nil
}

func elementProblem(element string) string {
	switch element {
	case "":
		return "has an empty element"
	case ".", "..":
		return "has the element " + element
	}
	return ""
}

func isKeyByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '.' || c == '_' || c == '=' || c == '-'
}
