package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/agent/fetch"
	"github.com/firnlog/firn/agent/ingest"
	"github.com/firnlog/firn/agent/kafka"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/metastore/state"
	"github.com/firnlog/firn/metastore/topicconfig"
	"github.com/firnlog/firn/objstore/batch"
)

func TestEveryResultOfTheStateHasACode(t *testing.T) {
	known := 0
	for c := state.Code(0); c < 255; c++ {
		code, ok := kafka.OfState(c)
		if named := !strings.HasPrefix(c.String(), "code "); named != ok {
			t.Errorf("%v: mapped %v", c, ok)
		}
		if !ok {
			continue
		}
		known++
		if code != 0 && kerr.TypedErrorForCode(code) == nil {
			t.Errorf("%v: no Kafka error has the code %d", c, code)
		}
		if (code == 0) != (c == state.OK || c == state.Duplicate) {
			t.Errorf("%v is code %d", c, code)
		}
	}
	if known < 20 {
		t.Errorf("only %d codes", known)
	}
}

// The sentinels of the rooms below are read from their sources, so that a new one is not forgotten here.
func TestEveryErrorOfTheRoomsBelowHasACode(t *testing.T) {
	here := map[string]error{
		"batch.ErrCorrupt": batch.ErrCorrupt, "batch.ErrTruncated": batch.ErrTruncated, "batch.ErrTooLarge": batch.ErrTooLarge,
		"batch.ErrInvalidRecord": batch.ErrInvalidRecord, "batch.ErrTimestamp": batch.ErrTimestamp,
		"batch.ErrUnsupportedCodec": batch.ErrUnsupportedCodec, "batch.ErrUnsupportedMagic": batch.ErrUnsupportedMagic,
		"fetch.ErrUnknownTopic": fetch.ErrUnknownTopic, "fetch.ErrOffsetOutOfRange": fetch.ErrOffsetOutOfRange,
		"fetch.ErrStorage": fetch.ErrStorage, "fetch.ErrCorrupt": fetch.ErrCorrupt, "fetch.ErrUnavailable": fetch.ErrUnavailable,
		"ingest.ErrClosed": ingest.ErrClosed, "ingest.ErrSpillLost": ingest.ErrSpillLost,
		"ingest.ErrLock":         ingest.ErrLock,
		"topicconfig.ErrUnknown": topicconfig.ErrUnknown, "topicconfig.ErrInvalid": topicconfig.ErrInvalid,
	}
	betweenAgents := []string{"fetch.ErrBusy", "fetch.ErrRefused"} // clients never hear of them
	for dir, pkg := range map[string]string{
		"../../objstore/batch": "batch", "../fetch": "fetch", "../ingest": "ingest", "../../metastore/topicconfig": "topicconfig",
	} {
		for _, name := range sentinels(t, dir) {
			err, ok := here[pkg+"."+name]
			switch {
			case slices.Contains(betweenAgents, pkg+"."+name):
				continue
			case !ok:
				t.Errorf("%s.%s is not in this test", pkg, name)
				continue
			}
			code, ok := kafka.OfError(fmt.Errorf("wrapped: %w", err))
			if !ok || code == 0 || kerr.TypedErrorForCode(code) == nil {
				t.Errorf("%s.%s: code %d, %v", pkg, name, code, ok)
			}
		}
	}
	for _, err := range []error{metastore.ErrTooLarge, metastore.ErrClosed, context.Canceled, context.DeadlineExceeded} {
		if code, ok := kafka.OfError(err); !ok || code == 0 {
			t.Errorf("%v: code %d", err, code)
		}
	}
	if code, ok := kafka.OfError(errors.New("never heard of")); ok || code != -1 {
		t.Errorf("an error that nobody thought of: code %d, %v", code, ok)
	}
}

// sentinels lists a package's exported Err variables.
func sentinels(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				for _, n := range spec.(*ast.ValueSpec).Names {
					if strings.HasPrefix(n.Name, "Err") {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}
