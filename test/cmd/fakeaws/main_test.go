package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func TestRun(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	env := map[string]string{"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "secret"}
	out, in := io.Pipe()
	ended := make(chan error)
	go func() {
		ended <- run(ctx, []string{"--publish-interval=5s"}, func(name string) string { return env[name] }, in)
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	client := sts.New(sts.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(strings.TrimSpace(line)),
		Credentials: credentials.NewStaticCredentialsProvider("AKIAENV", "secret", ""),
	})
	if _, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	for args, words := range map[string]string{
		"--nothing":                 "not defined: -nothing",
		"--publish-interval=soon":   "publish-interval",
		"--publish-interval=1500ms": "publish interval 1.5s is not a number of seconds",
		"--listen=nowhere:x":        "listening on nowhere:x",
		"extra":                     `unexpected argument "extra"`,
	} {
		err := run(t.Context(), []string{args}, func(string) string { return "" }, io.Discard)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error is %v, want %q", args, err, words)
		}
	}
	if err := run(t.Context(), []string{"--help"}, func(string) string { return "" }, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: error is %v", err)
	}
}
