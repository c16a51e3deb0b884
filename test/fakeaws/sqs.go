package fakeaws

import (
	"cmp"
	"crypto/md5" //nolint:gosec // SQS's answers carry MD5 sums, and its clients check them.
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// Limits of SQS, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
const (
	maxMessage    = 1 << 20 // bytes
	maxBatch      = 10      // messages
	maxWait       = 20      // seconds
	maxVisibility = 12 * 60 * 60
	maxDelay      = 15 * 60
)

// Attributes of queues.
const (
	attrVisibility = "VisibilityTimeout"
	attrDelay      = "DelaySeconds"
	attrRetention  = "MessageRetentionPeriod"
	attrMaxSize    = "MaximumMessageSize"
	attrWait       = "ReceiveMessageWaitTimeSeconds"
	attrCreated    = "CreatedTimestamp"
	attrModified   = "LastModifiedTimestamp"
	attrARN        = "QueueArn"
	attrVisible    = "ApproximateNumberOfMessages"
	attrNotVisible = "ApproximateNumberOfMessagesNotVisible"
	attrDelayed    = "ApproximateNumberOfMessagesDelayed"
	attrRedrive    = "RedrivePolicy"
)

// settable are the numeric attributes that a client may set, with their bounds and
// defaults, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
var settable = map[string]struct{ least, most, initial int }{
	attrVisibility: {0, maxVisibility, 30},
	attrDelay:      {0, maxDelay, 0},
	attrRetention:  {60, 1_209_600, 345_600},
	attrMaxSize:    {1024, maxMessage, maxMessage},
	attrWait:       {0, maxWait, 0},
}

var queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

func (s *Server) sqs() *service {
	const maxBody = maxMessage + maxMessage/2 // A message's JSON is longer than the message.
	return &service{
		name:        "sqs",
		signingName: "sqs",
		operations: map[string]operation{
			"ChangeMessageVisibility":      newOperation(maxBody, s.changeMessageVisibility),
			"ChangeMessageVisibilityBatch": newOperation(maxBody, s.changeMessageVisibilityBatch),
			"CreateQueue":                  newOperation(maxBody, s.createQueue),
			"DeleteMessage":                newOperation(maxBody, s.deleteMessage),
			"DeleteMessageBatch":           newOperation(maxBody, s.deleteMessageBatch),
			"DeleteQueue":                  newOperation(maxBody, s.deleteQueue),
			"GetQueueAttributes":           newOperation(maxBody, s.getQueueAttributes),
			"GetQueueUrl":                  newOperation(maxBody, s.getQueueURL),
			"ListQueues":                   newOperation(maxBody, s.listQueues),
			"PurgeQueue":                   newOperation(maxBody, s.purgeQueue),
			"ReceiveMessage":               newOperation(maxBody, s.receiveMessage),
			"SendMessage":                  newOperation(maxBody, s.sendMessage),
			"SendMessageBatch":             newOperation(maxBody, s.sendMessageBatch),
			"SetQueueAttributes":           newOperation(maxBody, s.setQueueAttributes),
		},
	}
}

func sqsError(code, shape, format string, args ...any) *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: code, Shape: shape, Message: fmt.Sprintf(format, args...)}
}

func noSuchQueue() *apiError {
	return sqsError("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "The specified queue does not exist.")
}

func (s *Server) queueURL(id queueID) *string {
	return aws.String(s.URL() + "/" + id.account + "/" + id.name)
}

// queue finds a queue by its URL, whose last two parts are the account and the
// name. The region is the caller's.
func (s *Server) queue(c *call, queueURL *string) (queueID, *queue, error) {
	u, err := url.Parse(aws.ToString(queueURL))
	if err != nil {
		return queueID{}, nil, noSuchQueue()
	}
	account, name := path.Split(strings.Trim(u.Path, "/"))
	id := queueID{scope{strings.Trim(account, "/"), c.caller.region}, name}
	q := s.queues.get(id)
	if q == nil {
		return id, nil, noSuchQueue()
	}
	q.touch(s.opts.Now())
	return id, q, nil
}

// checkAttributes checks the attributes that a client sets.
func checkAttributes(given map[string]string) error {
	for name, value := range given {
		if name == attrRedrive {
			continue // readRedrive looks at it.
		}
		limits, ok := settable[name]
		if !ok {
			return sqsError("InvalidAttributeName", "", "Unknown Attribute %s.", name)
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < limits.least || n > limits.most {
			return sqsError("InvalidAttributeValue", "", "Invalid value for the parameter %s.", name)
		}
	}
	return nil
}

func (s *Server) createQueue(c *call, in *sqs.CreateQueueInput) (*sqs.CreateQueueOutput, error) {
	id := queueID{scope{c.caller.account, c.caller.region}, aws.ToString(in.QueueName)}
	if !queueName.MatchString(id.name) {
		return nil, sqsError("InvalidParameterValue", "InvalidParameterValueException",
			"Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	if err := checkAttributes(in.Attributes); err != nil {
		return nil, err
	}
	policy, err := s.readRedrive(c, in.Attributes[attrRedrive])
	if err != nil {
		return nil, err
	}
	s.queues.mu.Lock()
	defer s.queues.mu.Unlock()
	if old := s.queues.all[id]; old != nil {
		return &sqs.CreateQueueOutput{QueueUrl: s.queueURL(id)}, old.sameAttributes(in.Attributes)
	}
	created := strconv.FormatInt(s.opts.Now().Unix(), 10)
	attributes := map[string]string{attrCreated: created, attrModified: created}
	for name, limits := range settable {
		attributes[name] = strconv.Itoa(limits.initial)
	}
	maps.Copy(attributes, in.Attributes)
	q := newQueue(attributes, s.opts.Now())
	q.redrive = policy
	s.queues.all[id] = q
	return &sqs.CreateQueueOutput{QueueUrl: s.queueURL(id)}, nil
}

func (q *queue) sameAttributes(given map[string]string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, value := range given {
		if q.attributes[name] != value {
			return sqsError("QueueAlreadyExists", "QueueNameExists",
				"A queue already exists with the same name and a different value for attribute %s", name)
		}
	}
	return nil
}

func (s *Server) getQueueURL(c *call, in *sqs.GetQueueUrlInput) (*sqs.GetQueueUrlOutput, error) {
	account := cmp.Or(aws.ToString(in.QueueOwnerAWSAccountId), c.caller.account)
	id := queueID{scope{account, c.caller.region}, aws.ToString(in.QueueName)}
	if s.queues.get(id) == nil {
		return nil, noSuchQueue()
	}
	return &sqs.GetQueueUrlOutput{QueueUrl: s.queueURL(id)}, nil
}

func (s *Server) listQueues(c *call, in *sqs.ListQueuesInput) (*sqs.ListQueuesOutput, error) {
	var names []string
	for id := range s.queues.snapshot() {
		if id.scope == (scope{c.caller.account, c.caller.region}) && strings.HasPrefix(id.name, aws.ToString(in.QueueNamePrefix)) {
			names = append(names, id.name)
		}
	}
	slices.Sort(names)
	// A token is the last name of the page before.
	names = slices.DeleteFunc(names, func(name string) bool { return name <= aws.ToString(in.NextToken) })
	out := &sqs.ListQueuesOutput{}
	most := int(aws.ToInt32(cmp.Or(in.MaxResults, aws.Int32(1000))))
	if most < 1 || most > 1000 {
		return nil, sqsError("InvalidParameterValue", "InvalidParameterValueException", "MaxResults must be between 1 and 1000.")
	}
	if len(names) > most {
		names = names[:most]
		if in.MaxResults != nil { // Without it SQS cuts the list and says nothing.
			out.NextToken = &names[most-1]
		}
	}
	for _, name := range names {
		out.QueueUrls = append(out.QueueUrls, *s.queueURL(queueID{scope{c.caller.account, c.caller.region}, name}))
	}
	return out, nil
}

func (s *Server) deleteQueue(c *call, in *sqs.DeleteQueueInput) (*sqs.DeleteQueueOutput, error) {
	id, _, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	s.queues.mu.Lock()
	defer s.queues.mu.Unlock()
	if q := s.queues.all[id]; q != nil {
		close(q.deleted)
		delete(s.queues.all, id)
	}
	return &sqs.DeleteQueueOutput{}, nil
}

func (s *Server) purgeQueue(c *call, in *sqs.PurgeQueueInput) (*sqs.PurgeQueueOutput, error) {
	_, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	q.purge()
	return &sqs.PurgeQueueOutput{}, nil
}

func (s *Server) setQueueAttributes(c *call, in *sqs.SetQueueAttributesInput) (*sqs.SetQueueAttributesOutput, error) {
	_, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	if err := checkAttributes(in.Attributes); err != nil {
		return nil, err
	}
	text, given := in.Attributes[attrRedrive]
	policy, err := s.readRedrive(c, text)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.Copy(q.attributes, in.Attributes)
	if given {
		q.redrive = policy
	}
	if policy == nil && given {
		delete(q.attributes, attrRedrive)
	}
	q.attributes[attrModified] = strconv.FormatInt(s.opts.Now().Unix(), 10)
	return &sqs.SetQueueAttributesOutput{}, nil
}

func (s *Server) getQueueAttributes(c *call, in *sqs.GetQueueAttributesInput) (*sqs.GetQueueAttributesOutput, error) {
	id, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	d := q.depth(s.opts.Now())
	q.mu.Lock()
	all := maps.Clone(q.attributes)
	q.mu.Unlock()
	all[attrARN] = id.arn()
	all[attrVisible] = strconv.Itoa(d.visible)
	all[attrNotVisible] = strconv.Itoa(d.notVisible)
	all[attrDelayed] = strconv.Itoa(d.delayed)
	out := &sqs.GetQueueAttributesOutput{Attributes: map[string]string{}}
	for _, name := range in.AttributeNames {
		value, ok := all[string(name)]
		switch {
		case name == types.QueueAttributeNameAll:
			maps.Copy(out.Attributes, all)
		case ok:
			out.Attributes[string(name)] = value
		case !slices.Contains(name.Values(), name):
			return nil, sqsError("InvalidAttributeName", "", "Unknown Attribute %s.", name)
		}
	}
	return out, nil
}

// checkMessage returns the delay of a message that is to be sent.
func (q *queue) checkMessage(body *string, attributes map[string]types.MessageAttributeValue, delaySeconds int32) (time.Duration, error) {
	size, err := checkMessageAttributes(attributes)
	if err != nil {
		return 0, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	most, _ := strconv.Atoi(q.attributes[attrMaxSize]) // Attributes are checked when they are set.
	switch {
	case aws.ToString(body) == "":
		return 0, sqsError("MissingParameter", "", "The request must contain the parameter MessageBody.")
	case !sendable(*body):
		return 0, sqsError("InvalidMessageContents", "", "The message contains characters outside the allowed set.")
	case len(*body)+size > most:
		return 0, sqsError("InvalidParameterValue", "InvalidParameterValueException",
			"One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", most)
	case delaySeconds < 0 || delaySeconds > maxDelay:
		return 0, sqsError("InvalidParameterValue", "InvalidParameterValueException",
			"Value %d for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and <= %d.", delaySeconds, maxDelay)
	case delaySeconds == 0: // The SDK's type does not tell 0 from absent.
		return q.seconds(attrDelay), nil
	}
	return time.Duration(delaySeconds) * time.Second, nil
}

func (s *Server) sendMessage(c *call, in *sqs.SendMessageInput) (*sqs.SendMessageOutput, error) {
	_, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	delay, err := q.checkMessage(in.MessageBody, in.MessageAttributes, in.DelaySeconds)
	if err != nil {
		return nil, err
	}
	m := q.send(*in.MessageBody, in.MessageAttributes, delay, s.opts.Now())
	return &sqs.SendMessageOutput{MessageId: &m.id, MD5OfMessageBody: md5Sum(m.body)}, nil
}

func md5Sum(text string) *string {
	hash := md5.Sum([]byte(text)) //nolint:gosec // As above.
	return aws.String(hex.EncodeToString(hash[:]))
}

// checkBatch checks the IDs of a batch's entries.
func checkBatch[E any](entries []E, id func(E) *string) error {
	switch {
	case len(entries) == 0:
		return sqsError("AWS.SimpleQueueService.EmptyBatchRequest", "EmptyBatchRequest", "There should be at least one entry in the request.")
	case len(entries) > maxBatch:
		return sqsError("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", "TooManyEntriesInBatchRequest",
			"Maximum number of entries per request are %d. You have sent %d.", maxBatch, len(entries))
	}
	seen := map[string]bool{}
	for _, entry := range entries {
		name := aws.ToString(id(entry))
		if !queueName.MatchString(name) {
			return sqsError("AWS.SimpleQueueService.InvalidBatchEntryId", "InvalidBatchEntryId",
				"A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.")
		}
		if seen[name] {
			return sqsError("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", "BatchEntryIdsNotDistinct", "Id %s repeated.", name)
		}
		seen[name] = true
	}
	return nil
}

func (s *Server) sendMessageBatch(c *call, in *sqs.SendMessageBatchInput) (*sqs.SendMessageBatchOutput, error) {
	_, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	if err := checkBatch(in.Entries, func(e types.SendMessageBatchRequestEntry) *string { return e.Id }); err != nil {
		return nil, err
	}
	out := &sqs.SendMessageBatchOutput{
		Successful: []types.SendMessageBatchResultEntry{},
		Failed:     []types.BatchResultErrorEntry{},
	}
	for _, e := range in.Entries {
		delay, err := q.checkMessage(e.MessageBody, e.MessageAttributes, e.DelaySeconds)
		if err != nil {
			failure := toAPIError(err)
			out.Failed = append(out.Failed, types.BatchResultErrorEntry{
				Id: e.Id, Code: &failure.Code, Message: &failure.Message, SenderFault: true,
			})
			continue
		}
		m := q.send(*e.MessageBody, e.MessageAttributes, delay, s.opts.Now())
		out.Successful = append(out.Successful, types.SendMessageBatchResultEntry{
			Id: e.Id, MessageId: &m.id, MD5OfMessageBody: md5Sum(m.body),
		})
	}
	return out, nil
}

func (s *Server) receiveMessage(c *call, in *sqs.ReceiveMessageInput) (*sqs.ReceiveMessageOutput, error) {
	id, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	most := int(cmp.Or(in.MaxNumberOfMessages, 1))
	if most < 1 || most > maxBatch {
		return nil, sqsError("InvalidParameterValue", "InvalidParameterValueException",
			"Value %d for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and %d, if provided.", most, maxBatch)
	}
	if in.VisibilityTimeout < 0 || in.VisibilityTimeout > maxVisibility || in.WaitTimeSeconds < 0 || in.WaitTimeSeconds > maxWait {
		return nil, sqsError("InvalidParameterValue", "InvalidParameterValueException",
			"VisibilityTimeout must be between 0 and %d, and WaitTimeSeconds between 0 and %d.", maxVisibility, maxWait)
	}
	q.mu.Lock() // The SDK's type does not tell 0 from absent, so 0 is the queue's own setting.
	visibility := cmp.Or(time.Duration(in.VisibilityTimeout)*time.Second, q.seconds(attrVisibility))
	wait := cmp.Or(time.Duration(in.WaitTimeSeconds)*time.Second, q.seconds(attrWait))
	q.mu.Unlock()
	taken, err := s.poll(c, id, q, most, visibility, wait)
	if err != nil {
		return nil, err
	}
	out := &sqs.ReceiveMessageOutput{}
	for _, d := range taken {
		out.Messages = append(out.Messages, toMessage(d, in))
	}
	return out, nil
}

// poll receives, and waits for a message if there is none.
func (s *Server) poll(c *call, id queueID, q *queue, most int, visibility, wait time.Duration) ([]delivery, error) {
	until := s.opts.Now().Add(wait)
	for {
		now := s.opts.Now()
		taken, arrived, next := q.receive(most, visibility, now)
		s.bury(id, q, now)
		if len(taken) > 0 || !now.Before(until) {
			if len(taken) == 0 {
				q.foundNothing()
			}
			return taken, nil
		}
		if next.IsZero() || next.After(until) {
			next = until
		}
		select {
		case <-arrived:
		case <-s.opts.After(next.Sub(now)):
		case <-q.deleted:
			return nil, noSuchQueue()
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
}

// toMessage writes a message with the attributes that the caller asks for.
func toMessage(d delivery, in *sqs.ReceiveMessageInput) types.Message {
	system := map[string]string{
		"ApproximateReceiveCount":          strconv.Itoa(d.taken),
		"ApproximateFirstReceiveTimestamp": strconv.FormatInt(d.firstTaken.UnixMilli(), 10),
		"SentTimestamp":                    strconv.FormatInt(d.sent.UnixMilli(), 10),
	}
	if d.source != "" {
		system["DeadLetterQueueSourceArn"] = d.source
	}
	m := types.Message{MessageId: &d.id, ReceiptHandle: &d.receipt, Body: &d.body, MD5OfBody: md5Sum(d.body)}
	for _, name := range in.MessageSystemAttributeNames {
		for key, value := range system {
			if name == types.MessageSystemAttributeNameAll || string(name) == key {
				m.Attributes = with(m.Attributes, key, value)
			}
		}
	}
	for _, name := range in.MessageAttributeNames {
		for key, value := range d.attributes {
			if name == "All" || name == ".*" || name == key {
				m.MessageAttributes = with(m.MessageAttributes, key, value)
			}
		}
	}
	return m
}

func with[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[key] = value
	return m
}

func (s *Server) deleteMessage(c *call, in *sqs.DeleteMessageInput) (*sqs.DeleteMessageOutput, error) {
	_, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	q.delete(aws.ToString(in.ReceiptHandle), s.opts.Now())
	return &sqs.DeleteMessageOutput{}, nil
}

func (s *Server) deleteMessageBatch(c *call, in *sqs.DeleteMessageBatchInput) (*sqs.DeleteMessageBatchOutput, error) {
	_, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	if err := checkBatch(in.Entries, func(e types.DeleteMessageBatchRequestEntry) *string { return e.Id }); err != nil {
		return nil, err
	}
	out := &sqs.DeleteMessageBatchOutput{
		Successful: []types.DeleteMessageBatchResultEntry{},
		Failed:     []types.BatchResultErrorEntry{},
	}
	for _, e := range in.Entries {
		q.delete(aws.ToString(e.ReceiptHandle), s.opts.Now())
		out.Successful = append(out.Successful, types.DeleteMessageBatchResultEntry{Id: e.Id})
	}
	return out, nil
}

func (s *Server) changeMessageVisibility(c *call, in *sqs.ChangeMessageVisibilityInput) (*sqs.ChangeMessageVisibilityOutput, error) {
	_, q, err := s.queue(c, in.QueueUrl)
	if err != nil {
		return nil, err
	}
	if in.VisibilityTimeout < 0 || in.VisibilityTimeout > maxVisibility {
		return nil, sqsError("InvalidParameterValue", "InvalidParameterValueException",
			"Value %d for parameter VisibilityTimeout is invalid. Reason: Must be between 0 and %d.", in.VisibilityTimeout, maxVisibility)
	}
	if !q.changeVisibility(aws.ToString(in.ReceiptHandle), time.Duration(in.VisibilityTimeout)*time.Second, s.opts.Now()) {
		return nil, sqsError("AWS.SimpleQueueService.MessageNotInflight", "MessageNotInflight", "The message is not in flight.")
	}
	return &sqs.ChangeMessageVisibilityOutput{}, nil
}
