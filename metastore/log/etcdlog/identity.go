package etcdlog

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

// identityFormat is the only one there is. A change of it stops older agents: their guard compares these bytes.
const identityFormat = 1

// storedIdentity is the value of the meta key. Equal identities encode to equal bytes: fields in this order, nothing
// optional.
type storedIdentity struct {
	Format  int    `json:"format"`
	ID      string `json:"id"`    // 32 hex digits
	Epoch   uint64 `json:"epoch"` // from 1
	Base    uint64 `json:"base"`
	Cluster string `json:"cluster"` // etcd's cluster id, 16 hex digits
}

func encodeIdentity(i log.Identity) (string, error) {
	b, err := json.Marshal(storedIdentity{identityFormat, hex.EncodeToString(i.ID[:]), i.Epoch, i.Base, i.Cluster})
	return string(b), err
}

func decodeIdentity(b []byte) (log.Identity, error) {
	refuse := func(why string) (log.Identity, error) {
		return log.Identity{}, fmt.Errorf("%w: identity %s: %q", log.ErrRefused, why, b)
	}
	var s storedIdentity
	if err := json.Unmarshal(b, &s); err != nil {
		return refuse("does not parse")
	}
	if s.Format != identityFormat {
		return refuse("of an unknown format")
	}
	i := log.Identity{Epoch: s.Epoch, Base: s.Base, Cluster: s.Cluster}
	id, err := hex.DecodeString(s.ID)
	if err != nil || len(id) != len(i.ID) || i.Epoch == 0 {
		return refuse("is damaged")
	}
	copy(i.ID[:], id)
	if again, err := encodeIdentity(i); err != nil || !bytes.Equal([]byte(again), b) {
		return refuse("is not in its canonical form")
	}
	return i, nil
}

// Identity implements log.Log.
func (l *Log) Identity(ctx context.Context) (log.Identity, error) {
	if err := l.open(); err != nil {
		return log.Identity{}, err
	}
	get, err := l.cli.Get(ctx, l.keys.meta())
	if err != nil {
		return log.Identity{}, l.fail("read the identity", err)
	}
	if len(get.Kvs) > 0 {
		return l.meet(get.Kvs)
	}
	fresh := log.Identity{Epoch: 1}
	if g := l.opts.Genesis; g != nil {
		fresh = *g
	} else if _, err := rand.Read(fresh.ID[:]); err != nil {
		return log.Identity{}, err
	}
	fresh.Cluster = l.cluster
	value, err := encodeIdentity(fresh)
	if err != nil {
		return log.Identity{}, err
	}
	// A head without an identity is a log that somebody damaged; a new identity would renumber it.
	resp, err := l.cli.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(l.keys.meta()), "=", 0),
		clientv3.Compare(clientv3.CreateRevision(l.keys.head()), "=", 0),
	).Then(clientv3.OpPut(l.keys.meta(), value)).Else(clientv3.OpGet(l.keys.meta())).Commit()
	if err != nil {
		return log.Identity{}, l.fail("create the identity", err)
	}
	if resp.Succeeded {
		return l.meet([]*mvccpb.KeyValue{{Value: []byte(value)}})
	}
	return l.meet(resp.Responses[0].GetResponseRange().GetKvs())
}

// known is Identity without asking again.
func (l *Log) known(ctx context.Context) (log.Identity, error) {
	if i := l.identity.Load(); i != nil {
		return *i, nil
	}
	return l.Identity(ctx)
}

// meet judges what a read of the meta key returned, and remembers the first identity met.
func (l *Log) meet(kvs []*mvccpb.KeyValue) (log.Identity, error) {
	if len(kvs) == 0 {
		return log.Identity{}, fmt.Errorf("%w: %w: the log below %s has lost its identity: another etcd answers, or its data was deleted",
			log.ErrRefused, log.ErrReplaced, l.keys.prefix)
	}
	i, err := decodeIdentity(kvs[0].Value)
	if err != nil {
		return log.Identity{}, err
	}
	if i.Cluster != l.cluster && !l.opts.Unsafe {
		// A copy of etcd's data brought up again is a log that may have gone back in time.
		return log.Identity{}, fmt.Errorf("%w: %w: the log below %s was made on etcd cluster %s and this is %s: restore it as a new epoch",
			log.ErrRefused, log.ErrReplaced, l.keys.prefix, i.Cluster, l.cluster)
	}
	if !l.identity.CompareAndSwap(nil, &i) {
		if old := *l.identity.Load(); old != i {
			return log.Identity{}, fmt.Errorf("%w: %w: below %s there is now log %x of epoch %d, was log %x of epoch %d",
				log.ErrRefused, log.ErrReplaced, l.keys.prefix, i.ID, i.Epoch, old.ID, old.Epoch)
		}
	}
	return i, nil
}
