package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
)

// profileTime is how long a profile is taken.
const profileTime = 10 * time.Second

// profile writes two profiles of each side under a load, if profiles are wanted: what it
// computes, WHAT-SIDE.cpu.pprof, and what memory it takes for that, WHAT-SIDE.allocs.pprof.
func (b *bed) profile(ctx context.Context, sides []side, what string, of func(side) load) error {
	if b.profiles == "" {
		return nil
	}
	if err := os.MkdirAll(b.profiles, 0o750); err != nil {
		return fmt.Errorf("profiles: %w", err)
	}
	for _, s := range sides {
		b.say("profiling %s: %s", s.name, what)
		name := strings.NewReplacer(" ", "-", ",", "").Replace(what + " " + s.name)
		if err := b.profileOne(ctx, s, filepath.Join(b.profiles, name), of(s)); err != nil {
			return fmt.Errorf("profile of %s: %w", s.name, err)
		}
	}
	return nil
}

func (b *bed) profileOne(ctx context.Context, s side, file string, l load) error {
	client, err := rest.HTTPClientFor(s.server.Config(b.Config()))
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	l.limit = profileTime + time.Second
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := l.run(ctx, s.client)
		return err
	})
	for kind, path := range map[string]string{"cpu": "profile", "allocs": "allocs"} {
		g.Go(func() error {
			text, err := read(ctx, client, fmt.Sprintf("%s/debug/pprof/%s?seconds=%d", s.server.URL, path, int(profileTime.Seconds())))
			if err != nil {
				return err
			}
			return os.WriteFile(file+"."+kind+".pprof", text, 0o600)
		})
	}
	return g.Wait()
}
