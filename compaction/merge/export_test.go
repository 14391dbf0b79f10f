package merge

import "time"

// Sightings is what ages are computed from.
type Sightings = sightings

// Look and Age are its methods.
func (s *sightings) Look(n uint64, now time.Time, span time.Duration) { s.look(n, now, span) }
func (s *sightings) Age(born uint64, now time.Time) time.Duration     { return s.age(born, now) }

// WithDefaults fills in the defaults.
func (r TierRules) WithDefaults() TierRules { return r.withDefaults() }
