package serve

import (
	"cmp"
	"context"
	"net"
	"sync"
)

// limited is a listener with a bounded number of open connections: each takes memory, also one
// that nobody uses. More wait in the kernel, and a load balancer whose question about health
// waits there goes elsewhere.
type limited struct {
	*net.TCPListener

	free   chan struct{} // has one for each open connection
	closed chan struct{}
	once   sync.Once
}

func listen(ctx context.Context, p Port) (*limited, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", p.Address)
	if err != nil {
		return nil, err
	}
	return &limited{
		TCPListener: l.(*net.TCPListener), //nolint:forcetypeassert // The network is tcp.
		free:        make(chan struct{}, cmp.Or(p.MaxConnections, defaultConnections)),
		closed:      make(chan struct{}),
	}, nil
}

// Accept waits for room, and for a client.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptTCP()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &accepted{TCPConn: c, release: sync.OnceFunc(func() { <-l.free })}, nil
}

// Close ends every Accept.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.TCPListener.Close()
}

// accepted is a TCPConn, and not any Conn: http.Server closes one half of it first, so that a
// client can read why its request was refused.
type accepted struct {
	*net.TCPConn

	release func()
}

// Close makes room.
func (c *accepted) Close() error {
	defer c.release()
	return c.TCPConn.Close()
}
