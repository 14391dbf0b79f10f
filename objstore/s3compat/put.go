package s3compat

import (
	"crypto/md5" // Content-MD5 is the checksum that every store knows, not a defence
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/firnlog/firn/objstore"
)

// CheckPut is what every put passes beside the gate; an error wraps objstore.ErrInvalid.
func CheckPut(o Options, size int64, opts objstore.PutOptions) error {
	if err := objstore.ValidatePut(size, opts); err != nil {
		return err
	}
	if size > o.ObjectBytesMax {
		return fmt.Errorf("%d bytes, at most %d: %w", size, o.ObjectBytesMax, objstore.ErrInvalid)
	}
	return nil
}

// PutActions are the permissions that a put needs.
func PutActions(opts objstore.PutOptions) string {
	actions := "s3:PutObject"
	if len(opts.Tags) > 0 {
		actions += ", s3:PutObjectTagging"
	}
	if opts.Lock.Mode != objstore.LockNone {
		actions += ", s3:PutObjectRetention"
	}
	return actions
}

// TaggingHeader is the value of x-amz-tagging, in the order of tags.
func TaggingHeader(tags []objstore.Tag) string {
	var b strings.Builder
	for i, t := range tags {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(t.Key) + "=" + url.QueryEscape(t.Value))
	}
	return b.String()
}

// ContentMD5 reads body to its end and goes back to its start.
func ContentMD5(body io.ReadSeeker) (string, error) {
	sum := md5.New()
	if _, err := io.Copy(sum, body); err != nil {
		return "", err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(sum.Sum(nil)), nil
}
