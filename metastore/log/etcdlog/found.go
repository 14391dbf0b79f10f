package etcdlog

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

var _ log.Founder = (*Log)(nil)

// standingKeys is how many names Standing tells.
const standingKeys = 5

// Standing implements log.Founder.
func (l *Log) Standing(ctx context.Context) (log.Standing, error) {
	if err := l.open(); err != nil {
		return log.Standing{}, err
	}
	resp, err := l.cli.Txn(ctx).Then(
		clientv3.OpGet(l.keys.all(), clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(standingKeys)),
		clientv3.OpGet(l.keys.meta()),
	).Commit()
	if err != nil {
		return log.Standing{}, l.fail("look below "+l.keys.prefix, err)
	}
	found := resp.Responses[0].GetResponseRange()
	s := log.Standing{Keys: found.GetCount()}
	for _, kv := range found.GetKvs() {
		s.Some = append(s.Some, string(kv.Key))
	}
	if metas := resp.Responses[1].GetResponseRange().GetKvs(); len(metas) > 0 {
		if s.Identity, err = decodeIdentity(metas[0].Value); err != nil {
			return log.Standing{}, err
		}
	}
	return s, nil
}

// Found implements log.Founder.
func (l *Log) Found(ctx context.Context, identity log.Identity, cells map[string][]byte) (log.Identity, error) {
	if err := l.open(); err != nil {
		return log.Identity{}, err
	}
	identity.Cluster = l.cluster
	value, err := encodeIdentity(identity)
	if err != nil {
		return log.Identity{}, err
	}
	puts := []clientv3.Op{clientv3.OpPut(l.keys.meta(), value)}
	for _, name := range slices.Sorted(maps.Keys(cells)) {
		puts = append(puts, clientv3.OpPut(l.keys.cell(name), string(cells[name])))
	}
	// Of a range, etcd compares every key that is there; of an empty one, a key that was never created.
	resp, err := l.cli.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(l.keys.all()), "=", 0).WithPrefix()).Then(puts...).Commit()
	if err != nil {
		return log.Identity{}, l.fail("found the log", err)
	}
	if !resp.Succeeded {
		return log.Identity{}, fmt.Errorf("%w: there are keys below %s", log.ErrConflict, l.keys.all())
	}
	return l.meet([]*mvccpb.KeyValue{{Value: []byte(value)}})
}
