package sim_test

import (
	"math/rand/v2"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore/log"
	"github.com/firnlog/firn/objstore"
)

// plant is a bug put on a seam of a life, to show that the judgement sees it.
type plant struct {
	name   string
	log    func(log.Log, *rand.Rand) log.Log
	bucket func(objstore.Bucket) objstore.Bucket
	tamper func(*rand.Rand) *tamper
}

// tamper is a proxy between a client and an agent that does wrong.
type tamper struct {
	copies func(kmsg.Request) int // how often a request is sent
	answer func(kmsg.Request, kmsg.Response)
}
