package env

import (
	"context"

	"github.com/tidegauge/tidegauge/test/player"
)

// PlayerOptions say how to start the player.
type PlayerOptions struct {
	// Binary is the program's path, by default .bin/player.
	Binary string
}

// Player is a running player of pods, and the client that says what they do.
type Player struct {
	*Process
	player.Client
}

// StartPlayer starts what plays the pods towards Prometheus. Restart keeps its port,
// and nothing else.
func (c *Cluster) StartPlayer(ctx context.Context, opts PlayerOptions) (*Player, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()

	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	if opts.Binary == "" {
		if opts.Binary, err = c.binary("player"); err != nil {
			return nil, err
		}
	}
	p := &Player{Client: player.Client{URL: "http://" + address(port)}}
	p.Process, err = c.run(ctx, command{
		name: "player", path: opts.Binary, args: []string{"--listen=" + address(port)},
		health: Health{URL: p.URL + "/_control/requests"},
	})
	return p, err
}
