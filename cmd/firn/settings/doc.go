// Package settings reads what an operator sets, from four places. In falling precedence: a flag, an environment variable, a
// key of a YAML file, the default.
//
// A [Setting] is declared once, in a [Set]: name, place of its value, default, bounds, help. Everything else follows from the
// name: --flush-interval, FIRN_FLUSH_INTERVAL, and the key flush-interval at the top level of the file. Keys are not nested,
// so that what is found in one place can be looked for in the others.
//
// [Set.Resolve] judges every value from every place, also one that another overrides, and returns all problems at once, each
// with where the value stands, the value and what to do. Nothing is taken over silently: an unknown key of the file, a key given
// twice, a number without its unit, a setting without a value are problems. An environment variable with our prefix that is no setting is
// only a warning: the prefix is shared with client tools and with what orchestrators inject.
//
// Secrets come from the environment, or from a file that another setting names. They are not taken from flags, which every user of the
// machine can list, nor from the configuration file, which ends up in a repository; and they are never printed.
package settings
