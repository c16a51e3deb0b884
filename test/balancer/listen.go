package balancer

import (
	"net"
	"sync"
)

// limited is a listener with a bounded number of open connections. More wait to be accepted.
type limited struct {
	net.Listener

	free   chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Accept waits for room, and for a client.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &accepted{Conn: c, release: sync.OnceFunc(func() { <-l.free })}, nil
}

// Close ends every Accept.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type accepted struct {
	net.Conn

	release func()
}

// Close makes room.
func (c *accepted) Close() error {
	c.release()
	return c.Conn.Close()
}
