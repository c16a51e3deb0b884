package fakeaws

import (
	"container/heap"
	"crypto/rand"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// queueID names a queue.
type queueID struct {
	scope

	name string
}

// queues are the queues of every account and region.
type queues struct {
	mu  sync.Mutex
	all map[queueID]*queue
}

func newQueues() *queues { return &queues{all: map[queueID]*queue{}} }

// get returns nil for a queue that does not exist.
func (q *queues) get(id queueID) *queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.all[id]
}

// snapshot returns the queues that there are.
func (q *queues) snapshot() map[queueID]*queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Clone(q.all)
}

// queue is one standard queue. Its time only moves on when it is looked at.
type queue struct {
	mu         sync.Mutex
	attributes map[string]string
	ready      []*message // visible, and some that were deleted meanwhile
	visible    int
	hidden     hiddenMessages // in flight or delayed
	byReceipt  map[string]*message
	delayed    int
	arrived    chan struct{} // closed when a message may have become visible
	deleted    chan struct{} // closed when the queue is
	activity   activity
	lastUsed   time.Time  // by a client, or when it was last seen to have messages
	redrive    *redrive   // nil where the queue has no dead-letter queue
	old        []*message // were received too often, and are to be moved
}

// activity is what happened since the queue was last published to CloudWatch.
type activity struct {
	sent, received, deleted, emptyReceives float64
}

// message is a message of a queue.
type message struct {
	id         string
	body       string
	attributes map[string]types.MessageAttributeValue
	sent       time.Time
	firstTaken time.Time
	taken      int // how often it was received
	visibleAt  time.Time
	index      int // in hidden, or -1
	receipts   []string
	gone       bool
	source     string // ARN of the queue that it was moved from, as a dead letter
}

// hiddenMessages is a heap, the next to become visible first.
type hiddenMessages []*message //nolint:recvcheck // container/heap wants both kinds of receivers.

func (h hiddenMessages) Len() int           { return len(h) }
func (h hiddenMessages) Less(i, j int) bool { return h[i].visibleAt.Before(h[j].visibleAt) }

func (h hiddenMessages) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is for container/heap.
func (h *hiddenMessages) Push(x any) {
	m := x.(*message) //nolint:forcetypeassert // Only messages are pushed.
	m.index = len(*h)
	*h = append(*h, m)
}

// Pop is for container/heap.
func (h *hiddenMessages) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	m.index = -1
	return m
}

func newQueue(attributes map[string]string, now time.Time) *queue {
	return &queue{
		attributes: attributes,
		byReceipt:  map[string]*message{},
		arrived:    make(chan struct{}),
		deleted:    make(chan struct{}),
		lastUsed:   now,
	}
}

// seconds is a duration that is kept as an attribute in whole seconds.
func (q *queue) seconds(attribute string) time.Duration {
	n, _ := strconv.Atoi(q.attributes[attribute]) // Attributes are checked when they are set.
	return time.Duration(n) * time.Second
}

// advance makes visible what is due, and drops what is older than the retention.
func (q *queue) advance(now time.Time) {
	for len(q.hidden) > 0 && !q.hidden[0].visibleAt.After(now) {
		m := heap.Pop(&q.hidden).(*message) //nolint:forcetypeassert // Only messages are pushed.
		if m.taken == 0 {
			q.delayed--
		}
		q.show(m)
	}
	oldest := now.Add(-q.seconds(attrRetention))
	for len(q.ready) > 0 && (q.ready[0].gone || q.ready[0].sent.Before(oldest)) {
		q.remove(q.ready[0])
		q.ready = q.ready[1:]
	}
}

func (q *queue) show(m *message) {
	q.ready = append(q.ready, m)
	q.visible++
	close(q.arrived)
	q.arrived = make(chan struct{})
}

func (q *queue) hide(m *message, until time.Time) {
	m.visibleAt = until
	heap.Push(&q.hidden, m)
}

// remove forgets a message wherever it is, except for its place in ready.
func (q *queue) remove(m *message) {
	if m.gone {
		return
	}
	m.gone = true
	switch {
	case m.index < 0:
		q.visible--
	case m.taken == 0:
		q.delayed--
		heap.Remove(&q.hidden, m.index)
	default:
		heap.Remove(&q.hidden, m.index)
	}
	for _, r := range m.receipts {
		delete(q.byReceipt, r)
	}
}

// send adds a message that becomes visible after a delay.
func (q *queue) send(body string, attributes map[string]types.MessageAttributeValue, delay time.Duration, now time.Time) *message {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := &message{id: newRequestID(), body: body, attributes: attributes, sent: now, index: -1}
	q.activity.sent++
	if delay > 0 {
		q.delayed++
		q.hide(m, now.Add(delay))
	} else {
		q.show(m)
	}
	return m
}

// maxInFlight is the most messages that can be in flight in a standard queue, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
const maxInFlight = 120_000

// delivery is one receive of a message.
type delivery struct {
	message

	receipt string
}

// receive takes up to n visible messages and hides them for a while. If there is
// none, it returns when to try again: when the channel closes or at the time, which
// is zero if nothing is hidden.
func (q *queue) receive(n int, visibility time.Duration, now time.Time) (taken []delivery, arrived <-chan struct{}, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.advance(now)
	for len(taken) < n && len(q.ready) > 0 && len(q.hidden)-q.delayed < maxInFlight {
		m := q.ready[0]
		q.ready = q.ready[1:]
		if m.gone {
			continue
		}
		q.visible--
		if q.takeOld(m) {
			continue
		}
		taken = append(taken, q.deliver(m, visibility, now))
	}
	q.activity.received += float64(len(taken))
	if len(q.hidden) > 0 {
		next = q.hidden[0].visibleAt
	}
	return taken, q.arrived, next
}

func (q *queue) deliver(m *message, visibility time.Duration, now time.Time) delivery {
	if m.taken == 0 {
		m.firstTaken = now
	}
	m.taken++
	receipt := rand.Text() + rand.Text()
	m.receipts = append(m.receipts, receipt)
	q.byReceipt[receipt] = m
	q.hide(m, now.Add(visibility))
	return delivery{*m, receipt}
}

// foundNothing counts a receive that ended without a message.
func (q *queue) foundNothing() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.activity.emptyReceives++
}

// touch notes that a client used the queue.
func (q *queue) touch(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lastUsed = now
}

// delete removes the message of a receipt; one that is gone already is fine.
func (q *queue) delete(receipt string, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.advance(now)
	if m := q.byReceipt[receipt]; m != nil {
		q.remove(m)
		q.activity.deleted++
	}
}

// changeVisibility hides a message that is in flight for another while, and says
// whether it is in flight.
func (q *queue) changeVisibility(receipt string, visibility time.Duration, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.advance(now)
	m := q.byReceipt[receipt]
	if m == nil || m.index < 0 {
		return false
	}
	heap.Remove(&q.hidden, m.index)
	q.hide(m, now.Add(visibility))
	q.advance(now)
	return true
}

// purge removes every message.
func (q *queue) purge() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range slices.Concat(q.ready, slices.Clone(q.hidden)) {
		q.remove(m)
	}
	q.ready = nil
}

// depth is how many messages a queue has of each kind, and how old the oldest is.
type depth struct {
	visible, notVisible, delayed int
	oldest                       time.Duration
}

func (q *queue) depth(now time.Time) depth {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.depthLocked(now)
}

func (q *queue) depthLocked(now time.Time) depth {
	q.advance(now)
	d := depth{visible: q.visible, notVisible: len(q.hidden) - q.delayed, delayed: q.delayed}
	for _, messages := range [][]*message{q.ready, q.hidden} {
		for _, m := range messages {
			if !m.gone {
				d.oldest = max(d.oldest, now.Sub(m.sent))
			}
		}
	}
	return d
}

// report returns the depth and what happened since the last report; false is for a
// queue that is idle, of which SQS publishes nothing.
func (q *queue) report(now time.Time) (depth, activity, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	happened := q.activity
	q.activity = activity{}
	d := q.depthLocked(now)
	if d.visible+d.notVisible+d.delayed > 0 {
		q.lastUsed = now
	}
	return d, happened, now.Sub(q.lastUsed) <= idleQueue
}
