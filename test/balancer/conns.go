package balancer

import (
	"bufio"
	"context"
	"errors"
	"math"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// maxHeader is the limit of a whole header, see
	// https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html.
	maxHeader = 64 << 10
	// maxIdle is how many idle connections are kept for a target.
	maxIdle = 256
)

// Why a connection to a target was ended from this side.
var (
	errIdle    = errors.New("nothing was sent or received for the idle timeout")
	errDrained = errors.New("the deregistration delay is over")
	errClient  = errors.New("the client went away")
	errUnused  = errors.New("the connection is of no more use")
	errHeader  = errors.New("the header of the answer is too long")
)

// conns are the connections to one target. They are kept alive between requests, as an ALB
// keeps them, see
// https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/how-elastic-load-balancing-works.html#http-connections.
// net/http's client is not used for that: it sends a request again when the target closed the
// connection meanwhile, and an ALB answers 502.
type conns struct {
	mu   sync.Mutex
	cut  bool
	idle []*conn // the one used last at the end
	open map[*conn]struct{}
}

// conn is a connection to a target.
type conn struct {
	net.Conn

	of     *conns
	reader *bufio.Reader
	idle   *time.Timer   // ends the connection
	after  time.Duration // for which nothing was sent or received
	limit  int64         // of what may be read; only the reader looks at it
	seen   chan struct{} // closed when nobody watches the idle connection any more

	mu    sync.Mutex
	cause error // why it was ended
}

// get is an idle connection, or a new one.
func (cs *conns) get(ctx context.Context, opts Options, address string) (*conn, error) {
	for {
		c := cs.take()
		if c == nil {
			break
		}
		if c.resume() {
			return c, nil
		}
	}
	limited, cancel := context.WithTimeout(ctx, opts.ConnectTimeout)
	defer cancel()
	nc, err := opts.Dial(limited, "tcp", address)
	if err != nil {
		return nil, err
	}
	return cs.add(nc, opts.IdleTimeout)
}

func (cs *conns) add(nc net.Conn, idle time.Duration) (*conn, error) {
	c := &conn{Conn: nc, of: cs, after: idle, limit: math.MaxInt64}
	c.reader = bufio.NewReader(c)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.cut {
		return nil, errors.Join(errDrained, nc.Close())
	}
	if cs.open == nil {
		cs.open = map[*conn]struct{}{}
	}
	cs.open[c] = struct{}{}
	c.idle = time.AfterFunc(idle, func() { c.end(errIdle) })
	return c, nil
}

func (cs *conns) take() *conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if len(cs.idle) == 0 {
		return nil
	}
	last := len(cs.idle) - 1
	c := cs.idle[last]
	cs.idle = cs.idle[:last]
	return c
}

// put keeps a connection for another request. It is watched meanwhile, so that one that
// the target closes is not used again.
func (cs *conns) put(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if _, open := cs.open[c]; !open {
		return
	}
	if len(cs.idle) == maxIdle || c.reader.Buffered() > 0 {
		go c.end(errUnused)
		return
	}
	cs.idle = append(cs.idle, c)
	c.seen = make(chan struct{})
	go c.watch()
}

// cutAll ends every connection, and lets no new one be.
func (cs *conns) cutAll(cause error) {
	cs.mu.Lock()
	cs.cut = true
	open := cs.open
	cs.open, cs.idle = nil, nil
	cs.mu.Unlock()
	for c := range open {
		c.end(cause)
	}
}

func (cs *conns) remove(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, c)
	for i, other := range cs.idle {
		if other == c {
			cs.idle = append(cs.idle[:i], cs.idle[i+1:]...)
			return
		}
	}
}

// watch ends an idle connection when the target closes it, or says something unasked.
func (c *conn) watch() {
	defer close(c.seen)
	if _, err := c.reader.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.end(errUnused)
	}
}

// resume ends the watch, and says whether the connection is still good.
func (c *conn) resume() bool {
	if c.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	<-c.seen
	return c.ended() == nil && c.SetReadDeadline(time.Time{}) == nil && c.idle.Reset(c.after)
}

// end closes the connection. What it was ended for first is what counts.
func (c *conn) end(cause error) {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return
	}
	c.cause = cause
	c.mu.Unlock()
	c.of.remove(c) // Which waits for add.
	c.idle.Stop()
	_ = c.Close() // It may be closed from the other side.
}

func (c *conn) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

func (c *conn) Read(p []byte) (int, error) {
	if c.limit <= 0 {
		return 0, errHeader
	}
	if int64(len(p)) > c.limit {
		p = p[:c.limit]
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.limit -= int64(n)
		c.idle.Reset(c.after)
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if n > 0 {
		c.idle.Reset(c.after)
	}
	return n, err
}
