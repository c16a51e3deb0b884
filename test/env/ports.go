package env

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The ports lie below those that operating systems give to outgoing connections
// (from 32768 on Linux, 49152 on macOS), so that none is taken while a component
// that will come back to it restarts.
const (
	firstPort = 20000
	lastPort  = 31999
	portTries = 100
)

var ports struct {
	sync.Mutex
	given map[int]bool
}

// FreePort is a TCP port of 127.0.0.1 on which nothing listens and which this
// process was not given before.
func FreePort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range portTries {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if !ports.given[port] && free(port) {
			ports.given[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port of 127.0.0.1 between %d and %d in %d tries", firstPort, lastPort, portTries)
}

func free(port int) bool {
	l, err := net.Listen("tcp4", address(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
