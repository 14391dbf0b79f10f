package etcdlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/firnlog/firn/metastore/log"
)

// Load implements log.Log.
func (l *Log) Load(ctx context.Context, name string) (log.Cell, error) {
	if err := l.open(); err != nil {
		return log.Cell{}, err
	}
	resp, err := l.cli.Get(ctx, l.keys.cell(name))
	if err != nil {
		return log.Cell{}, l.fail("load "+name, err)
	}
	if len(resp.Kvs) == 0 {
		return log.Cell{}, nil
	}
	return log.Cell{Value: resp.Kvs[0].Value, Version: uint64(resp.Kvs[0].ModRevision)}, nil
}

// Swap implements log.Log. Versions are mod revisions: a cell that vanished and came back has another one.
func (l *Log) Swap(ctx context.Context, name string, version uint64, value []byte, owner log.Registration) (log.Cell, error) {
	if err := l.open(); err != nil {
		return log.Cell{}, err
	}
	cell := l.keys.cell(name)
	guards := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(cell), "=", int64(version))}
	var opts []clientv3.OpOption
	if owner != nil {
		r, ok := owner.(*registration)
		if !ok || r.l != l {
			return log.Cell{}, fmt.Errorf("swap %s: the owner is not a registration of this log", name)
		}
		guards = append(guards, clientv3.Compare(clientv3.CreateRevision(l.keys.agent(r.incarnation)), ">", 0))
		opts = append(opts, clientv3.WithLease(r.lease))
	}
	resp, err := l.cli.Txn(ctx).If(guards...).Then(clientv3.OpPut(cell, string(value), opts...)).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return log.Cell{}, fmt.Errorf("%w: %s: the owner's registration is gone", log.ErrConflict, name)
	case err != nil:
		return log.Cell{}, l.fail("swap "+name, err)
	case !resp.Succeeded:
		return log.Cell{}, fmt.Errorf("%w: %s is not at version %d, or its owner is gone", log.ErrConflict, name, version)
	}
	return log.Cell{Value: value, Version: uint64(resp.Header.GetRevision())}, nil
}

// Status implements log.Log: per endpoint its version, leader, sizes and alarms; the error where one does not answer.
func (l *Log) Status(ctx context.Context) (map[string]string, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	out := map[string]string{"prefix": l.keys.prefix, "cluster": l.cluster}
	var answered bool
	var last error
	for _, endpoint := range l.endpoints() {
		c, cancel := context.WithTimeout(ctx, l.opts.DialTimeout)
		st, err := l.cli.Status(c, endpoint)
		cancel()
		if err != nil {
			out[endpoint+" error"], last = err.Error(), err
			continue
		}
		answered = true
		out[endpoint+" version"] = st.Version
		out[endpoint+" leader"] = strconv.FormatBool(st.Leader == st.Header.GetMemberId())
		out[endpoint+" revision"] = strconv.FormatInt(st.Header.GetRevision(), 10)
		out[endpoint+" db_bytes"] = strconv.FormatInt(st.DbSize, 10)
		out[endpoint+" db_used_bytes"] = strconv.FormatInt(st.DbSizeInUse, 10)
		out[endpoint+" quota_bytes"] = strconv.FormatInt(st.DbSizeQuota, 10)
		if len(st.Errors) > 0 {
			out[endpoint+" alarms"] = fmt.Sprint(st.Errors)
		}
	}
	if !answered {
		return out, l.fail("status", last)
	}
	return out, nil
}
