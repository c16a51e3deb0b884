package fakeaws

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	gocmp "github.com/google/go-cmp/cmp"
)

const reader = "arn:aws:iam::210987654321:role/path/reader"

func TestAuthentication(t *testing.T) {
	s := start(t, Options{})
	tests := []struct {
		name        string
		credentials aws.CredentialsProvider
		code        string
	}{
		{"right", credentials.NewStaticCredentialsProvider(s.AccessKeyID(), s.SecretAccessKey(), ""), ""},
		{"unknown key", credentials.NewStaticCredentialsProvider("AKIAOTHER", s.SecretAccessKey(), ""), "InvalidClientTokenId"},
		{"wrong secret", credentials.NewStaticCredentialsProvider(s.AccessKeyID(), "wrong", ""), "SignatureDoesNotMatch"},
		{"session token of nobody", credentials.NewStaticCredentialsProvider(s.AccessKeyID(), s.SecretAccessKey(), "token"), "InvalidClientTokenId"},
		{"unsigned", aws.AnonymousCredentials{}, "MissingAuthenticationToken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cfg := config(s)
			cfg.Credentials = test.credentials
			_, errCloudWatch := cloudwatch.NewFromConfig(cfg).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
			_, errSTS := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
			for _, err := range []error{errCloudWatch, errSTS} {
				if test.code != "" {
					wantCode(t, err, test.code, "")
				} else if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// signed returns a form that is signed as older clients do.
func signed(t *testing.T, s *Server, service string, form url.Values) *http.Request {
	t.Helper()
	body := form.Encode()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	hash := sha256.Sum256([]byte(body))
	keys := aws.Credentials{AccessKeyID: s.AccessKeyID(), SecretAccessKey: s.SecretAccessKey()}
	if err := v4.NewSigner().SignHTTP(t.Context(), keys, r, hex.EncodeToString(hash[:]), service, DefaultRegion, time.Now()); err != nil {
		t.Fatal(err)
	}
	return r
}

// send returns the status, the content type and the body of the answer.
func send(t *testing.T, r *http.Request) (status int, contentType, body string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(answer)
}

func TestTamperedRequests(t *testing.T) {
	s := start(t, Options{})
	form := url.Values{"Action": {"GetCallerIdentity"}, "Version": {"2011-06-15"}}
	tests := []struct {
		name   string
		tamper func(*http.Request)
		code   string
	}{
		{"as it is", func(*http.Request) {}, ""},
		{"body", func(r *http.Request) {
			body := []byte(form.Encode() + "&X=1")
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}, "SignatureDoesNotMatch"},
		{"content type", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, "SignatureDoesNotMatch"},
		{"date", func(r *http.Request) { r.Header.Set("X-Amz-Date", "yesterday") }, "SignatureDoesNotMatch"},
		{"path", func(r *http.Request) { r.URL.Path = "/other" }, "SignatureDoesNotMatch"},
		{"service", func(r *http.Request) { *r = *signed(t, s, "monitoring", form) }, "SignatureDoesNotMatch"},
		{"header", func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=x") }, "IncompleteSignature"},
		{"scheme", func(r *http.Request) { r.Header.Set("Authorization", "Basic eDp5") }, "IncompleteSignature"},
		{"none", func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationToken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := signed(t, s, "sts", form)
			test.tamper(r)
			status, _, body := send(t, r)
			if test.code == "" {
				if status != http.StatusOK {
					t.Errorf("got %d: %s", status, body)
				}
				return
			}
			if status < 400 || !strings.Contains(body, "<Code>"+test.code+"</Code>") {
				t.Errorf("got %d: %s, want %s", status, body, test.code)
			}
		})
	}
}

func TestUnknownRequests(t *testing.T) {
	s := start(t, Options{})
	if status, _, _ := send(t, signed(t, s, "sts", url.Values{"Action": {"Nothing"}, "Version": {"2011-06-15"}})); status != http.StatusBadRequest {
		t.Errorf("unknown operation: status %d, want 400", status)
	}
	if status, _, _ := send(t, signed(t, s, "ec2", url.Values{"Action": {"RunInstances"}, "Version": {"2016-11-15"}})); status != http.StatusNotFound {
		t.Errorf("unknown service: status %d, want 404", status)
	}
}

func TestCloudWatchQuery(t *testing.T) {
	s := startAtNoon(t)
	status, _, body := send(t, signed(t, s, "monitoring", url.Values{
		"Action": {"PutMetricData"}, "Version": {"2010-08-01"}, "Namespace": {"test"},
		"MetricData.member.1.MetricName":                      {"m & n"},
		"MetricData.member.1.Timestamp":                       {"2026-11-22T11:30:00Z"},
		"MetricData.member.1.Values.member.1":                 {"1.5"},
		"MetricData.member.1.Values.member.2":                 {"-4"},
		"MetricData.member.1.StorageResolution":               {"60"},
		"MetricData.member.1.Dimensions.member.1.Name":        {"d"},
		"MetricData.member.1.Dimensions.member.1.Value":       {"<v>"},
		"MetricData.member.2.MetricName":                      {"set"},
		"MetricData.member.2.Timestamp":                       {"2026-11-22T11:30:00Z"},
		"MetricData.member.2.StatisticValues.Sum":             {"3"},
		"MetricData.member.2.StatisticValues.SampleCount":     {"2"},
		"MetricData.member.2.StatisticValues.Minimum":         {"1"},
		"MetricData.member.2.StatisticValues.Maximum":         {"2"},
		"MetricData.member.2.Dimensions":                      {""},
		"MetricData.member.2.NotInTheModel.AsOfNow.Something": {"x"},
	}))
	if status != http.StatusOK {
		t.Fatalf("PutMetricData: %d: %s", status, body)
	}
	form := url.Values{
		"Action": {"GetMetricData"}, "Version": {"2010-08-01"},
		"StartTime": {"2026-11-22T11:00:00Z"}, "EndTime": {"2026-11-22T12:00:00Z"},
		"MetricDataQueries.member.1.Id":                                          {"m"},
		"MetricDataQueries.member.1.MetricStat.Metric.Namespace":                 {"test"},
		"MetricDataQueries.member.1.MetricStat.Metric.MetricName":                {"m & n"},
		"MetricDataQueries.member.1.MetricStat.Metric.Dimensions.member.1.Name":  {"d"},
		"MetricDataQueries.member.1.MetricStat.Metric.Dimensions.member.1.Value": {"<v>"},
		"MetricDataQueries.member.1.MetricStat.Period":                           {"60"},
		"MetricDataQueries.member.1.MetricStat.Stat":                             {"Sum"},
		"MetricDataQueries.member.2.Id":                                          {"e"},
		"MetricDataQueries.member.2.Expression":                                  {"m*2"},
		"MetricDataQueries.member.2.ReturnData":                                  {"false"},
	}
	status, contentType, body := send(t, signed(t, s, "monitoring", form))
	if status != http.StatusOK || contentType != "text/xml" {
		t.Fatalf("GetMetricData: %d: %s: %s", status, contentType, body)
	}
	type result struct {
		ID, Label, StatusCode string
		Timestamps            []string  `xml:"Timestamps>member"`
		Values                []float64 `xml:"Values>member"`
		XMLID                 string    `xml:"Id"`
	}
	var got struct {
		XMLName   xml.Name `xml:"http://monitoring.amazonaws.com/doc/2010-08-01/ GetMetricDataResponse"`
		Results   []result `xml:"GetMetricDataResult>MetricDataResults>member"`
		RequestID string   `xml:"ResponseMetadata>RequestId"`
	}
	if err := xml.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := []result{{XMLID: "m", Label: "m & n", StatusCode: "Complete", Timestamps: []string{"2026-11-22T11:30:00Z"}, Values: []float64{-2.5}}}
	if diff := gocmp.Diff(want, got.Results); diff != "" || got.RequestID == "" {
		t.Errorf("%s\n%s", diff, body)
	}
	for value, text := range map[float64]string{math.NaN(): "NaN", math.Inf(1): "Infinity", math.Inf(-1): "-Infinity", 0: "0"} {
		s.Fault(Fault{Count: 1, Value: new(Float(value))})
		if _, _, body := send(t, signed(t, s, "monitoring", form)); !strings.Contains(body, "<Values><member>"+text+"</member></Values>") {
			t.Errorf("%v: got %s", value, body)
		}
	}
	form.Set("MetricDataQueries.member.1.MetricStat.Period", "soon")
	status, _, body = send(t, signed(t, s, "monitoring", form))
	if status != http.StatusBadRequest || !strings.Contains(body, "MetricDataQueries.member.1.MetricStat.Period") {
		t.Errorf("got %d: %s", status, body)
	}
}

func TestCloudWatchJSON(t *testing.T) {
	s := startAtNoon(t)
	put(s, "m", map[int]float64{30: 1.5})
	body := `{"StartTime": 1795345200, "EndTime": 1795348800.5, "MetricDataQueries": [
		{"Id": "m", "MetricStat": {"Metric": {"Namespace": "test", "MetricName": "m"}, "Period": 60, "Stat": "Sum"}, "ReturnData": true}]}`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.0")
	r.Header.Set("X-Amz-Target", "GraniteServiceVersion20100801.GetMetricData")
	hash := sha256.Sum256([]byte(body))
	keys := aws.Credentials{AccessKeyID: s.AccessKeyID(), SecretAccessKey: s.SecretAccessKey()}
	if err := v4.NewSigner().SignHTTP(t.Context(), keys, r, hex.EncodeToString(hash[:]), "monitoring", DefaultRegion, time.Now()); err != nil {
		t.Fatal(err)
	}
	if status, _, answer := send(t, r); status != http.StatusOK || !strings.Contains(answer, `"Values":[1.5]`) {
		t.Errorf("got %d: %s", status, answer)
	}
}

func TestAssumeRole(t *testing.T) {
	var now atomic.Pointer[time.Time]
	now.Store(&noon)
	s := start(t, Options{Now: func() time.Time { return *now.Load() }})
	s.PutMetric(Metric{Namespace: "test", Name: "theirs", Account: "210987654321", Value: 1})
	out, err := stsClient(s).AssumeRole(t.Context(), &sts.AssumeRoleInput{
		RoleArn: aws.String(reader), RoleSessionName: aws.String("session"), DurationSeconds: aws.Int32(900),
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := noon.Add(15 * time.Minute); !out.Credentials.Expiration.Equal(want) {
		t.Errorf("credentials expire at %v, want %v", out.Credentials.Expiration, want)
	}
	cfg := config(s)
	cfg.Credentials = credentials.NewStaticCredentialsProvider(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
	identity, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil {
		t.Fatal(err)
	}
	if *identity.Account != "210987654321" || *identity.Arn != "arn:aws:sts::210987654321:assumed-role/reader/session" || *identity.Arn != *out.AssumedRoleUser.Arn {
		t.Errorf("identity is %s in %s", *identity.Arn, *identity.Account)
	}
	list, err := cloudwatch.NewFromConfig(cfg).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Metrics) != 1 || *list.Metrics[0].MetricName != "theirs" {
		t.Errorf("metrics are %v, want the role's account's", list.Metrics)
	}
	counts := s.Counts()
	if counts.RolesAssumed[reader] != 1 || counts.CallsByCaller[reader]["cloudwatch.ListMetrics"] != 1 {
		t.Errorf("counts are %+v", counts)
	}
	expiry := noon.Add(15 * time.Minute)
	now.Store(&expiry)
	_, err = cloudwatch.NewFromConfig(cfg).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
	wantCode(t, err, "ExpiredToken", "expired")
	muchLater := noon.Add(3 * time.Hour)
	now.Store(&muchLater)
	s.keys.issue(caller{}, muchLater, muchLater)
	_, err = cloudwatch.NewFromConfig(cfg).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
	wantCode(t, err, "InvalidClientTokenId", "")
}

func TestAssumeRoleRefuses(t *testing.T) {
	s := start(t, Options{})
	tests := []struct {
		name, role, session string
		seconds             int32
	}{
		{"role", "arn:aws:iam::1:role/x", "session", 900},
		{"user", "arn:aws:iam::210987654321:user/x", "session", 900},
		{"session", reader, "a session", 900},
		{"too short", reader, "session", 899},
		{"too long", reader, "session", 43_201},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := stsClient(s).AssumeRole(t.Context(), &sts.AssumeRoleInput{
				RoleArn: &test.role, RoleSessionName: &test.session, DurationSeconds: &test.seconds,
			})
			wantCode(t, err, "ValidationError", "")
		})
	}
	if got := s.Counts().RolesAssumed; len(got) > 0 {
		t.Errorf("roles assumed are %v, want none", got)
	}
}

func TestAssumeRoleWithWebIdentity(t *testing.T) {
	s := start(t, Options{})
	cfg := config(s)
	cfg.Credentials = aws.AnonymousCredentials{}
	client := sts.NewFromConfig(cfg)
	encode := base64.RawURLEncoding.EncodeToString
	token := encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(`{"iss":"https://issuer","sub":"system:serviceaccount:ns:sa"}`)) + ".c2ln"
	for _, test := range []struct{ name, token, code string }{
		{"right", token, ""},
		{"one part", "token", "InvalidIdentityToken"},
		{"no signature", strings.TrimSuffix(token, "c2ln"), "InvalidIdentityToken"},
		{"no base64", "a.!.c", "InvalidIdentityToken"},
		{"no JSON", encode([]byte("{}")) + "." + encode([]byte("x")) + ".c", "InvalidIdentityToken"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := client.AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
				RoleArn: aws.String(reader), RoleSessionName: aws.String("session"), WebIdentityToken: &test.token,
			})
			if test.code != "" {
				wantCode(t, err, test.code, "JWT")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if *out.SubjectFromWebIdentityToken != "system:serviceaccount:ns:sa" || *out.Provider != "https://issuer" || *out.Credentials.SessionToken == "" {
				t.Errorf("got %s of %s", *out.SubjectFromWebIdentityToken, *out.Provider)
			}
		})
	}
	if n := s.Counts().RolesAssumed[reader]; n != 1 {
		t.Errorf("role was assumed %d times, want 1", n)
	}
}
