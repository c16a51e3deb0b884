package cloudwatch

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Config is how the CloudWatch source reaches AWS. Credentials and endpoints are
// not part of it: they come from the default chain of the AWS SDK, with its
// environment variables and files
// (https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html,
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html).
type Config struct {
	// Region is the region of the objects that name none. By default it is the
	// SDK's (AWS_REGION, the shared configuration file), or else the region of the
	// EC2 instance.
	Region string `yaml:"region"`
	// RoleSessionName is what CloudTrail knows the assumed roles' sessions by.
	RoleSessionName string `yaml:"roleSessionName"`
	// CallTimeout is how long one GetMetricData call may take with its retry, and
	// how long one call for credentials may take.
	CallTimeout time.Duration `yaml:"callTimeout"`
	// MaxCalls is how many GetMetricData calls may be in flight for one region and
	// role.
	MaxCalls int `yaml:"maxCalls"`
	// MaxCallsPerSecond is how many GetMetricData calls may be made in a second in one
	// region of one account, which the role names. AWS allows an account 50 in a region,
	// whoever makes them, and more on request
	// (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_limits.html).
	// The pages of an answer are calls too; second attempts of calls that failed are not
	// counted.
	MaxCallsPerSecond int `yaml:"maxCallsPerSecond"`
	// Settle is how long after the end of a period its data may still arrive. Values
	// that late data changes are read only of periods that ended that long ago: sums,
	// counts and what a search or Metrics Insights finds. Below a minute periods are
	// for high-resolution metrics, which are put as they are measured: for them
	// it is at most 10 seconds.
	Settle time.Duration `yaml:"settle"`
	// Roles are which IAM roles the ExternalMetrics of which namespaces may name as roleArn;
	// none by default. Those of the adapter's own namespace may name any.
	Roles Roles `yaml:"roles"`
}

// DefaultConfig is the Config that holds where nothing is said.
func DefaultConfig() Config {
	return Config{
		RoleSessionName:   "tidegauge",
		CallTimeout:       8 * time.Second,
		MaxCalls:          8,
		MaxCallsPerSecond: 25,
		Settle:            2 * time.Minute,
	}
}

// sessionName is STS's rule for RoleSessionName
// (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).
var sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)

// Validate says which fields are out of their bounds; each error starts with the
// field's path.
func (c Config) Validate() error {
	return errors.Join(c.validateCalls(), c.Roles.validate())
}

func (c Config) validateCalls() error {
	if c.Region != "" {
		if err := checkRegion(c.Region); err != nil {
			return fmt.Errorf("region: %w", err)
		}
	}
	switch {
	case !sessionName.MatchString(c.RoleSessionName):
		return errors.New("roleSessionName: must be 2 to 64 letters, digits or any of _+=,.@-")
	case c.CallTimeout < time.Second || c.CallTimeout > time.Minute:
		return fmt.Errorf("callTimeout: %v is not between 1s and 1m", c.CallTimeout)
	case c.MaxCalls < 1 || c.MaxCalls > 50:
		return fmt.Errorf("maxCalls: %d is not between 1 and 50", c.MaxCalls)
	case c.MaxCallsPerSecond < 1 || c.MaxCallsPerSecond > 500:
		return fmt.Errorf("maxCallsPerSecond: %d is not between 1 and 500", c.MaxCallsPerSecond)
	case c.Settle < 0 || c.Settle > 15*time.Minute:
		return fmt.Errorf("settle: %v is not between 0s and 15m", c.Settle)
	}
	return nil
}
