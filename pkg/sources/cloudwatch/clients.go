package cloudwatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"
	"k8s.io/klog/v2"

	"github.com/tidegauge/tidegauge/pkg/sources"
)

// api is what the source calls of CloudWatch.
type api interface {
	GetMetricData(context.Context, *cloudwatch.GetMetricDataInput, ...func(*cloudwatch.Options)) (*cloudwatch.GetMetricDataOutput, error)
}

// operation is the name of that call.
const operation = "GetMetricData"

const (
	// maxAttempts is low because the engine asks again, with a backoff of its own.
	maxAttempts = 2
	maxBackoff  = time.Second
	// roleDuration is the longest that every role allows, and that a role which
	// assumes a role may ask for
	// (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).
	roleDuration = time.Hour
	// expiryWindow is how long before their end credentials are replaced, so that
	// no request arrives with expired ones.
	expiryWindow = 30 * time.Second
	// clientIdle is how long an unused client is kept: as long as its credentials.
	clientIdle = time.Hour
	// regionTimeout bounds the only network call of a start, which is not made
	// where the region is configured.
	regionTimeout = 2 * time.Second
)

// clientKey is whom a client asks, and as whom.
type clientKey struct {
	region, role string
}

func (k clientKey) String() string {
	if k.role == "" {
		return "cloudwatch in " + k.region
	}
	return fmt.Sprintf("cloudwatch in %s as %s", k.region, k.role)
}

// client asks CloudWatch in one region with one identity.
type client struct {
	api

	key         clientKey
	credentials aws.CredentialsProvider
	// slots hold one entry for each call in flight. Those that yield, and those that
	// retry, have another one in slots of their own, which are fewer.
	slots, yielding, retrying chan struct{}

	pace *sources.Pace
	used time.Time
}

// clients makes a client for each region and role that is asked, and keeps it
// while it is in use, so there are about as many as the queries in demand name.
type clients struct {
	config Config
	base   aws.Config
	// dial makes the API of the region and credentials in the configuration.
	dial func(aws.Config) api

	mu    sync.Mutex
	byKey map[clientKey]*client
}

func newClients(c Config, base aws.Config, dial func(aws.Config) api) *clients {
	return &clients{config: c, base: base, dial: dial, byKey: make(map[clientKey]*client)}
}

// loadAWS reads the environment and the files that the SDK knows. It calls nobody
// where a region is configured.
func loadAWS(ctx context.Context, c Config) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRegion(c.Region),
		config.WithRetryer(newRetryer),
		// The context of one call does not bound a call for credentials, which
		// may serve many; so the HTTP client does.
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(c.CallTimeout)),
		config.WithCredentialsCacheOptions(setExpiryWindow),
		config.WithLogger(sdkLogger(klog.FromContext(ctx))),
	}
	first, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, err
	}
	if first.Region == "" {
		first.Region = instanceRegion(ctx)
	}
	// The SDK makes the client that exchanges a web identity token before it knows
	// AWS_ENDPOINT_URL; so it gets one that was made after that.
	exchange := sts.NewFromConfig(first)
	return config.LoadDefaultConfig(ctx, append(options,
		config.WithRegion(first.Region),
		config.WithWebIdentityRoleCredentialOptions(func(o *stscreds.WebIdentityRoleOptions) {
			o.Client = exchange
			o.RoleSessionName = cmp.Or(o.RoleSessionName, c.RoleSessionName)
		}),
	)...)
}

// instanceRegion is the region of the EC2 instance that this runs on, or empty.
func instanceRegion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, regionTimeout)
	defer cancel()
	c, err := config.LoadDefaultConfig(ctx, config.WithEC2IMDSRegion())
	if err != nil {
		return ""
	}
	return c.Region
}

// newRetryer retries what may pass at once. It leaves out throttling, as more calls
// are what AWS asks not to make; and the SDK's budget of retries, as an outage
// would use it up and from then on fail with words about the budget.
func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = maxAttempts
		o.MaxBackoff = maxBackoff
		o.RateLimiter = ratelimit.None
		o.Retryables = []retry.IsErrorRetryable{
			retry.NoRetryCanceledError{},
			retry.IsErrorRetryableFunc(notThrottled),
			retry.RetryableError{},
			retry.RetryableConnectionError{},
			retry.RetryableHTTPStatusCode{Codes: retry.DefaultRetryableHTTPStatusCodes},
			retry.RetryableErrorCode{Codes: retry.DefaultRetryableErrorCodes},
		}
	})
}

// notThrottled decides of throttling, which may come with a retryable status.
func notThrottled(err error) aws.Ternary {
	if classify(err) == kindThrottled {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

// sdkLogger takes what the SDK logs, which is about connections and not for
// operators.
func sdkLogger(to klog.Logger) logging.LoggerFunc {
	return func(level logging.Classification, format string, v ...any) {
		to.V(4).Info("AWS SDK", "level", string(level), "message", fmt.Sprintf(format, v...))
	}
}

func setExpiryWindow(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = expiryWindow }

func dialAWS(c aws.Config) api { return cloudwatch.NewFromConfig(c) }

// get is the client of that region and role.
func (c *clients) get(k clientKey) (*client, error) {
	if k.region == "" {
		return nil, errors.New("cloudwatch: no region: set it in the object, in the adapter's configuration, or as AWS_REGION")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if cl, ok := c.byKey[k]; ok {
		cl.used = now
		return cl, nil
	}
	maps.DeleteFunc(c.byKey, func(_ clientKey, cl *client) bool { return now.Sub(cl.used) > clientIdle })
	most := c.config.MaxCalls
	cl := &client{
		key: k, credentials: c.credentials(k), pace: c.pace(k), used: now,
		slots:    make(chan struct{}, most),
		yielding: make(chan struct{}, (most+1)/2),
		retrying: make(chan struct{}, max(1, most*3/8)),
	}
	own := c.base.Copy()
	own.Region = k.region
	own.Credentials = cl.credentials
	cl.api = c.dial(own)
	c.byKey[k] = cl
	return cl, nil
}

// credentials are shared by all clients of a role, whatever their regions.
func (c *clients) credentials(k clientKey) aws.CredentialsProvider {
	if k.role == "" {
		return c.base.Credentials
	}
	for other, cl := range c.byKey {
		if other.role == k.role {
			return cl.credentials
		}
	}
	own := c.base.Copy()
	if own.Region == "" {
		own.Region = k.region
	}
	provider := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(own), k.role, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = c.config.RoleSessionName
		o.Duration = roleDuration
	})
	return aws.NewCredentialsCache(provider, setExpiryWindow)
}

// account is the one that the client's calls count for: that of the role, or else empty.
func (k clientKey) account() string {
	if parts := strings.Split(k.role, ":"); len(parts) > 4 {
		return parts[4]
	}
	return ""
}

// pace is shared by all clients of a region and account, as their quota is.
func (c *clients) pace(k clientKey) *sources.Pace {
	for other, cl := range c.byKey {
		if other.region == k.region && other.account() == k.account() {
			return cl.pace
		}
	}
	return sources.NewPace(c.config.MaxCallsPerSecond)
}

// needs are the slots in which a call of a Fetch takes an entry, one after the other, and
// always in this order.
func (c *client) needs(ctx context.Context) []chan struct{} {
	var slots []chan struct{}
	if sources.Retries(ctx) {
		slots = append(slots, c.retrying)
	}
	if sources.Yields(ctx) {
		slots = append(slots, c.yielding)
	}
	return append(slots, c.slots)
}

// acquire waits until there is an entry for one more call in all of the slots.
func acquire(ctx context.Context, slots []chan struct{}) error {
	for i, slot := range slots {
		select {
		case slot <- struct{}{}:
		case <-ctx.Done():
			release(slots[:i])
			return ctx.Err()
		}
	}
	return nil
}

func release(slots []chan struct{}) {
	for _, slot := range slots {
		<-slot
	}
}

// renew forgets credentials that AWS does not take any more, so that the next
// call gets new ones.
func renew(credentials aws.CredentialsProvider) {
	if cache, ok := credentials.(interface{ Invalidate() }); ok {
		cache.Invalidate()
	}
}
