package minio

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/firnlog/firn/objstore/s3compat"
)

// roleTimeout bounds a request to a role service; a machine that has none does not answer at all.
const roleTimeout = 3 * time.Second

// chain asks one provider after the other. The library's own chain falls back to unsigned requests and hides why.
type chain struct {
	links []link
	found credentials.Provider
}

type link struct {
	name     string
	provider credentials.Provider
}

// newCredentials makes the chain that the package doc describes. The client is the caller's to close.
func newCredentials(o s3compat.Options, roles *http.Client) *credentials.Credentials {
	if o.Anonymous {
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous)
	}
	files := link{"the AWS shared files", &credentials.FileAWSCredentials{Profile: o.Profile}}
	if o.Profile != "" {
		files.name = fmt.Sprintf("profile %q of the AWS shared files", o.Profile)
		return credentials.New(&chain{links: []link{files}})
	}
	links := []link{
		{"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", &credentials.EnvAWS{}},
		{"MINIO_ROOT_USER and MINIO_ROOT_PASSWORD, MINIO_ACCESS_KEY and MINIO_SECRET_KEY", &credentials.EnvMinio{}},
		files,
		{"the MinIO client's config.json", &credentials.FileMinioClient{}},
	}
	if !instanceDisabled() {
		iam := &credentials.IAM{Client: roles, Region: o.Region}
		if os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "" {
			iam.Endpoint = os.Getenv("AWS_ENDPOINT_URL_STS") // who trades the token, where that is not AWS; as the AWS SDK takes it
		}
		links = append(links, link{"web identity, container and instance roles", iam})
	}
	return credentials.New(&chain{links: links})
}

// instanceDisabled: the switch that the AWS tools know also keeps this driver from asking a metadata service, unless
// the environment names another role service.
func instanceDisabled() bool {
	if !strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return false
	}
	for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if os.Getenv(name) != "" {
			return false
		}
	}
	return true
}

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	bounded := &credentials.CredContext{}
	if cc != nil {
		*bounded = *cc
	}
	if bounded.Context != nil {
		ctx, cancel := context.WithTimeout(bounded.Context, 2*roleTimeout)
		defer cancel()
		bounded.Context = ctx
	}
	c.found = nil
	var tried []error
	for _, l := range c.links {
		value, err := l.provider.RetrieveWithCredContext(bounded)
		switch {
		case err != nil:
			tried = append(tried, fmt.Errorf("%s: %v", l.name, err)) // %v: no class of ours may come from there
		case value.AccessKeyID == "" || value.SecretAccessKey == "":
			tried = append(tried, fmt.Errorf("%s: nothing there", l.name))
		default:
			c.found = l.provider
			return value, nil
		}
	}
	return credentials.Value{}, fmt.Errorf("no credentials: %w", errors.Join(tried...))
}

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool { return c.found == nil || c.found.IsExpired() }
