package metastore

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/firnlog/firn/metastore/log"
)

// secretCell holds what agents of the cluster prove to each other that they know.
const secretCell = "secret"

// The value of secretCell: a format and the secret.
const (
	secretFormat = 1
	secretBytes  = 32
)

// ClusterSecret is the cluster's secret, made by whoever asks first and never changed: who can read the metastore is of the
// cluster. It goes into no log, metric or error.
//
// Requires: the log is this cluster's, see Identify: the cell makes an etcd that holds nothing unfit for a restore.
func ClusterSecret(ctx context.Context, l log.Log) ([]byte, error) {
	secret, err := loadSecret(ctx, l)
	if secret != nil || err != nil {
		return secret, err
	}
	value := make([]byte, 1+secretBytes)
	value[0] = secretFormat
	_, _ = rand.Read(value[1:]) // never fails
	_, made := l.Swap(ctx, secretCell, 0, value, nil)
	// What was read is what counts: another agent may have been first, or an answer been lost.
	switch secret, err = loadSecret(ctx, l); {
	case err != nil:
		return nil, err
	case secret == nil:
		return nil, fmt.Errorf("make the cluster's secret: %w", made)
	}
	return secret, nil
}

// loadSecret returns nil where there is none.
func loadSecret(ctx context.Context, l log.Log) ([]byte, error) {
	cell, err := l.Load(ctx, secretCell)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the cluster's secret: %w", err)
	case cell.Version == 0:
		return nil, nil
	case len(cell.Value) == 0:
		return nil, fmt.Errorf("%w: cell %s is empty", ErrCorrupt, secretCell)
	case cell.Value[0] > secretFormat:
		return nil, fmt.Errorf("%w: cell %s has format %d, this firn knows up to %d", ErrNewer, secretCell, cell.Value[0], secretFormat)
	case cell.Value[0] != secretFormat || len(cell.Value) != 1+secretBytes:
		return nil, fmt.Errorf("%w: cell %s has format %d and %d bytes", ErrCorrupt, secretCell, cell.Value[0], len(cell.Value))
	}
	return cell.Value[1:], nil
}
