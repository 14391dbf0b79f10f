package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// The same process on an S3 server: segments lie in its bucket, and what was acknowledged is read from there by a new start
// whose own directory is the old one, cache empty.
func TestDevOnS3(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("logs"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	defer server.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	bucket := "s3://logs/cluster-1?region=us-east-1&path_style=true&endpoint=" + server.URL
	dir := t.TempDir()
	var input strings.Builder
	for range 2000 {
		input.WriteString(strings.Repeat("snow ", 40) + "\n")
	}
	for round := range 2 {
		f := dev(t, "--data-dir", dir, "--bucket", bucket)
		addr := f.ready()
		if round == 0 {
			must(t, input.String(), "produce", "events", "--brokers", addr)
		}
		if got := must(t, "", "consume", "events", "--from", "start", "--exit-at-end", "--brokers", addr); got != input.String() {
			t.Fatalf("round %d: %d bytes consumed, %d produced", round, len(got), input.Len())
		}
		if code := f.stop(); code != 0 {
			t.Fatalf("exit code %d: %s", code, f.errs)
		}
	}
	objects, err := backend.ListBucket("logs", &gofakes3.Prefix{HasPrefix: true, Prefix: "cluster-1/data/"}, gofakes3.ListBucketPage{})
	if err != nil || len(objects.Contents) == 0 {
		t.Fatalf("segments in the bucket: %d, %v", len(objects.Contents), err)
	}
}
