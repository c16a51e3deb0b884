package fakeaws

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// maxReceives is the highest maxReceiveCount, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
const maxReceives = 1000

// redrive is where messages go that were received too often, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
type redrive struct {
	target queueID
	most   int // receives
}

// readRedrive reads the attribute RedrivePolicy; nil is that there is none.
func (s *Server) readRedrive(c *call, text string) (*redrive, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // An empty policy takes the queue's away.
	}
	invalid := func(reason string) error {
		return sqsError("InvalidParameterValue", "InvalidParameterValueException",
			"Value %s for parameter RedrivePolicy is invalid. Reason: %s", text, reason)
	}
	var policy struct {
		Target string          `json:"deadLetterTargetArn"`
		Most   json.RawMessage `json:"maxReceiveCount"` // a number, or one in quotes
	}
	if err := json.Unmarshal([]byte(text), &policy); err != nil {
		return nil, invalid("Redrive policy is not a valid JSON map.")
	}
	most, err := strconv.Atoi(strings.Trim(string(policy.Most), `"`))
	if err != nil || most < 1 || most > maxReceives {
		return nil, invalid("Invalid value for maxReceiveCount: must be between 1 and 1000.")
	}
	// arn:aws:sqs:region:account:name
	parts := strings.Split(policy.Target, ":")
	if len(parts) != 6 || parts[2] != "sqs" {
		return nil, invalid("Invalid value for deadLetterTargetArn.")
	}
	target := queueID{scope{parts[4], parts[3]}, parts[5]}
	if target.scope != (scope{c.caller.account, c.caller.region}) || s.queues.get(target) == nil {
		return nil, invalid("Dead letter target does not exist.")
	}
	return &redrive{target, most}, nil
}

// takeOld takes away a message that was received as often as the queue allows, and says
// whether it did. The caller holds the lock, and the message is not hidden and not in ready.
func (q *queue) takeOld(m *message) bool {
	if q.redrive == nil || m.taken < q.redrive.most {
		return false
	}
	for _, r := range m.receipts {
		delete(q.byReceipt, r)
	}
	m.receipts = nil
	q.old = append(q.old, m)
	return true
}

// bury moves the messages that a receive has found too old. In a standard queue they keep the
// time at which they were sent.
func (s *Server) bury(id queueID, q *queue, now time.Time) {
	q.mu.Lock()
	old, policy := q.old, q.redrive
	q.old = nil
	q.mu.Unlock()
	if len(old) == 0 {
		return
	}
	to := q // Without a target they stay.
	if policy != nil {
		if target := s.queues.get(policy.target); target != nil {
			to = target
		}
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	for _, m := range old {
		if to != q {
			m.source = id.arn()
		}
		// It counts for no NumberOfMessagesSent, see
		// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
		to.show(m)
		to.lastUsed = now
	}
}

func (id queueID) arn() string {
	return "arn:aws:sqs:" + id.region + ":" + id.account + ":" + id.name
}
