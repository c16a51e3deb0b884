package env

import (
	"context"
	"fmt"
	"time"
)

// AWSOptions say how the AWS stand-in behaves.
type AWSOptions struct {
	// Binary is the program's path, by default .bin/fakeaws.
	Binary string
	// PublishInterval is how often the depths of queues become metrics: a minute, as
	// in AWS, if zero.
	PublishInterval time.Duration
	// Args follow the arguments that StartAWS gives.
	Args []string
}

// AWS is a running AWS stand-in, and the credentials that it accepts. They are made
// up, and good for nothing else.
type AWS struct {
	*Process
	URL             string
	Region          string
	AccessKeyID     string
	SecretAccessKey string
}

// StartAWS starts the AWS stand-in. Restart keeps its port, and nothing else.
func (c *Cluster) StartAWS(ctx context.Context, opts AWSOptions) (*AWS, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()

	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	if opts.Binary == "" {
		if opts.Binary, err = c.binary("fakeaws"); err != nil {
			return nil, err
		}
	}
	aws := &AWS{
		URL: "http://" + address(port), Region: "eu-central-1",
		AccessKeyID: "AKIATIDEGAUGETESTBED", SecretAccessKey: "tidegauge-test-bed",
	}
	args := []string{
		"--listen=" + address(port),
		"--access-key-id=" + aws.AccessKeyID, "--secret-access-key=" + aws.SecretAccessKey,
	}
	if opts.PublishInterval > 0 {
		args = append(args, fmt.Sprintf("--publish-interval=%s", opts.PublishInterval))
	}
	aws.Process, err = c.run(ctx, command{
		name: "fakeaws", path: opts.Binary, args: append(args, opts.Args...),
		health: Health{URL: aws.URL + "/_control/settings"},
	})
	return aws, err
}

// Env are the environment variables that lead an AWS client to the stand-in.
func (a *AWS) Env() []string {
	return []string{
		"AWS_ENDPOINT_URL=" + a.URL,
		"AWS_REGION=" + a.Region,
		"AWS_ACCESS_KEY_ID=" + a.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + a.SecretAccessKey,
	}
}
