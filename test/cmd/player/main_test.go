package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/tidegauge/tidegauge/test/player"
)

func TestRun(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	ended := make(chan error)
	go func() { ended <- run(ctx, nil, in) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := (player.Client{URL: strings.TrimSpace(line)}).SetUsage(ctx, player.Usage{Node: "node-0"}); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestRunRefuses(t *testing.T) {
	for args, words := range map[string]string{
		"--nothing":          "not defined: -nothing",
		"--listen=nowhere:x": "listening on nowhere:x",
		"extra":              `unexpected argument "extra"`,
	} {
		err := run(t.Context(), []string{args}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error is %v, want %q", args, err, words)
		}
	}
	if err := run(t.Context(), []string{"--help"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: error is %v", err)
	}
}
