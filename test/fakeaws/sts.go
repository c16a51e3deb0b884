package fakeaws

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
)

// Limits of STS, see
// https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
const (
	maxSTSBody      = 128 << 10 // bytes
	defaultDuration = 3600      // seconds
	minDuration     = 900
	maxDuration     = 43_200
)

var (
	roleARN     = regexp.MustCompile(`^arn:aws[a-z-]*:iam::(\d{12}):role/(?:[\w+=,.@/-]+/)?([\w+=,.@-]{1,64})$`)
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
)

func (s *Server) sts() *service {
	webIdentity := newOperation(maxSTSBody, s.assumeRoleWithWebIdentity)
	webIdentity.unsigned = true
	return &service{
		name:        "sts",
		signingName: "sts",
		operations: map[string]operation{
			"AssumeRole":                newOperation(maxSTSBody, s.assumeRole),
			"AssumeRoleWithWebIdentity": webIdentity,
			"GetCallerIdentity":         newOperation(maxSTSBody, s.getCallerIdentity),
		},
	}
}

// wantedRole is the role that an operation's input asks for, if it asks for one.
func wantedRole(in any) string {
	switch in := in.(type) {
	case *sts.AssumeRoleInput:
		return aws.ToString(in.RoleArn)
	case *sts.AssumeRoleWithWebIdentityInput:
		return aws.ToString(in.RoleArn)
	default:
		return ""
	}
}

// assume starts a session of a role. Every role exists, in every account, and
// trusts everybody.
func (s *Server) assume(role, session *string, seconds *int32) (*types.Credentials, *types.AssumedRoleUser, error) {
	m := roleARN.FindStringSubmatch(aws.ToString(role))
	if m == nil {
		return nil, nil, validationError("%s is invalid", aws.ToString(role))
	}
	if !sessionName.MatchString(aws.ToString(session)) {
		return nil, nil, validationError("Value %q at 'roleSessionName' failed to satisfy constraint: %s", aws.ToString(session), sessionName)
	}
	duration := int32(defaultDuration)
	if seconds != nil {
		duration = *seconds
	}
	if duration < minDuration || duration > maxDuration {
		return nil, nil, validationError("Value %d at 'durationSeconds' must be between %d and %d", duration, minDuration, maxDuration)
	}
	id := "AROAFAKEAWS:" + *session
	arn := fmt.Sprintf("arn:aws:sts::%s:assumed-role/%s/%s", m[1], m[2], *session)
	now := s.opts.Now()
	who := caller{account: m[1], arn: arn, role: *role, userID: id}
	issued := s.keys.issue(who, now, now.Add(time.Duration(duration)*time.Second).Truncate(time.Second))
	s.counts.assumed(*role)
	return &types.Credentials{
		AccessKeyId:     &issued.AccessKeyID,
		SecretAccessKey: &issued.SecretAccessKey,
		SessionToken:    &issued.SessionToken,
		Expiration:      &issued.Expires,
	}, &types.AssumedRoleUser{Arn: &arn, AssumedRoleId: &id}, nil
}

func (s *Server) assumeRole(_ *call, in *sts.AssumeRoleInput) (*sts.AssumeRoleOutput, error) {
	credentials, user, err := s.assume(in.RoleArn, in.RoleSessionName, in.DurationSeconds)
	if err != nil {
		return nil, err
	}
	return &sts.AssumeRoleOutput{Credentials: credentials, AssumedRoleUser: user}, nil
}

func (s *Server) assumeRoleWithWebIdentity(_ *call, in *sts.AssumeRoleWithWebIdentityInput) (*sts.AssumeRoleWithWebIdentityOutput, error) {
	claims, err := parseToken(aws.ToString(in.WebIdentityToken))
	if err != nil {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "InvalidIdentityToken", Message: err.Error()}
	}
	credentials, user, err := s.assume(in.RoleArn, in.RoleSessionName, in.DurationSeconds)
	if err != nil {
		return nil, err
	}
	return &sts.AssumeRoleWithWebIdentityOutput{
		Credentials:                 credentials,
		AssumedRoleUser:             user,
		Provider:                    &claims.Issuer,
		SubjectFromWebIdentityToken: &claims.Subject,
	}, nil
}

// tokenClaims are what is read of a web identity token.
type tokenClaims struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
}

// parseToken wants three parts of base64 with JSON in the first two; it verifies no signature.
func parseToken(token string) (tokenClaims, error) {
	var claims tokenClaims
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[2] == "" {
		return claims, errors.New("the ID Token provided is not a valid JWT")
	}
	for i, into := range []any{&map[string]any{}, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			return claims, fmt.Errorf("the ID Token provided is not a valid JWT: %w", err)
		}
	}
	return claims, nil
}

func (s *Server) getCallerIdentity(c *call, _ *sts.GetCallerIdentityInput) (*sts.GetCallerIdentityOutput, error) {
	return &sts.GetCallerIdentityOutput{Account: &c.caller.account, Arn: &c.caller.arn, UserId: &c.caller.userID}, nil
}
