package fakeaws

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// caller is who signed a request, and for which region.
type caller struct {
	account     string
	region      string
	accessKeyID string
	arn         string
	// role is the ARN of the role that the credentials came from; empty for the static key pair.
	role string
	// userID is what GetCallerIdentity calls UserId.
	userID string
}

// name is how counts call the caller: the role, or else the access key.
func (c caller) name() string {
	if c.role != "" {
		return c.role
	}
	return c.accessKeyID
}

// key is a key pair that is or was valid.
type key struct {
	credentials aws.Credentials
	caller      caller
}

// keyring knows the key pairs: the static one, and those that STS issued.
type keyring struct {
	mu   sync.Mutex
	keys map[string]key // by access key ID
}

func newKeyring(opts Options) *keyring {
	return &keyring{keys: map[string]key{opts.AccessKeyID: {
		credentials: aws.Credentials{AccessKeyID: opts.AccessKeyID, SecretAccessKey: opts.SecretAccessKey},
		caller: caller{
			account:     opts.Account,
			accessKeyID: opts.AccessKeyID,
			arn:         fmt.Sprintf("arn:aws:iam::%s:user/fakeaws", opts.Account),
			userID:      "AIDAFAKEAWS",
		},
	}}}
}

// issue makes a key pair for a caller that is valid until expires, and forgets
// those that expired more than an hour before now.
func (k *keyring) issue(who caller, now, expires time.Time) aws.Credentials {
	who.accessKeyID = "ASIA" + rand.Text()[:16]
	credentials := aws.Credentials{
		AccessKeyID:     who.accessKeyID,
		SecretAccessKey: rand.Text() + rand.Text(),
		SessionToken:    rand.Text() + rand.Text(),
		CanExpire:       true,
		Expires:         expires,
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, old := range k.keys {
		if old.credentials.CanExpire && old.credentials.Expires.Before(now.Add(-time.Hour)) {
			delete(k.keys, id)
		}
	}
	k.keys[who.accessKeyID] = key{credentials: credentials, caller: who}
	return credentials
}

// authenticate verifies the signature of a request and returns who made it. The
// errors are those of
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
func (k *keyring) authenticate(ctx context.Context, r *http.Request, body []byte, service string, now time.Time) (caller, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return caller{}, forbidden("MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	auth, err := parseAuthorization(header)
	if err != nil {
		return caller{}, err
	}
	k.mu.Lock()
	found, ok := k.keys[auth.accessKeyID]
	k.mu.Unlock()
	if !ok || found.credentials.SessionToken != r.Header.Get("X-Amz-Security-Token") {
		return caller{}, forbidden("InvalidClientTokenId", "The security token included in the request is invalid.")
	}
	if found.credentials.CanExpire && !now.Before(found.credentials.Expires) {
		return caller{}, forbidden("ExpiredToken", "The security token included in the request is expired")
	}
	if auth.service != service {
		return caller{}, forbidden("SignatureDoesNotMatch", fmt.Sprintf("Credential should be scoped to correct service: '%s'.", service))
	}
	if err := auth.verify(ctx, r, body, found.credentials); err != nil {
		return caller{}, err
	}
	who := found.caller
	who.region = auth.region
	return who, nil
}

// authorization is what the header of that name says in Signature Version 4.
type authorization struct {
	accessKeyID, date, region, service string
	signedHeaders                      []string
	signature                          string
}

func parseAuthorization(header string) (authorization, error) {
	fields := map[string]string{}
	rest, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 ")
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	if !ok || len(scope) != 5 || scope[4] != "aws4_request" || fields["SignedHeaders"] == "" || fields["Signature"] == "" {
		return authorization{}, &apiError{
			Status: http.StatusBadRequest, Code: "IncompleteSignature",
			Message: "Authorization header requires 'Credential', 'Signature' and 'SignedHeaders' parameters.",
		}
	}
	return authorization{
		accessKeyID: scope[0], date: scope[1], region: scope[2], service: scope[3],
		signedHeaders: strings.Split(fields["SignedHeaders"], ";"),
		signature:     fields["Signature"],
	}, nil
}

// verify signs what the client signed once more and compares.
func (a authorization) verify(ctx context.Context, r *http.Request, body []byte, credentials aws.Credentials) error {
	mismatch := forbidden("SignatureDoesNotMatch",
		"The request signature we calculated does not match the signature you provided. "+
			"Check your AWS Secret Access Key and signing method.")
	date, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || date.Format("20060102") != a.date {
		return mismatch
	}
	again := &http.Request{
		Method: r.Method,
		URL:    &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery},
		Host:   r.Host,
		Header: http.Header{},
		Body:   io.NopCloser(http.NoBody),
	}
	for _, name := range a.signedHeaders {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = r.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	hash := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(ctx, credentials, again, hex.EncodeToString(hash[:]), a.service, a.region, date)
	if err != nil {
		return fmt.Errorf("signing the request again: %w", err)
	}
	ours, err := parseAuthorization(again.Header.Get("Authorization"))
	if err != nil {
		return err
	}
	if !hmac.Equal([]byte(ours.signature), []byte(a.signature)) {
		return mismatch
	}
	return nil
}

func forbidden(code, message string) *apiError {
	return &apiError{Status: http.StatusForbidden, Code: code, Message: message}
}
