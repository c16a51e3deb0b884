package fakeaws

import (
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// maxAttributes is how many attributes a message may have, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
const maxAttributes = 10

// attributeName is what a message's attribute may be called, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
var attributeName = regexp.MustCompile(`^[A-Za-z0-9_-]([A-Za-z0-9_.-]{0,254}[A-Za-z0-9_-])?$`)

// sendable says whether a text has only characters that SQS takes, see
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
func sendable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
	})
}

// checkMessageAttributes checks the attributes of a message, and returns how much they add to its size.
func checkMessageAttributes(attributes map[string]types.MessageAttributeValue) (size int, err error) {
	invalid := func(format string, args ...any) error {
		return sqsError("InvalidParameterValue", "InvalidParameterValueException", format, args...)
	}
	if len(attributes) > maxAttributes {
		return 0, invalid("Number of message attributes [%d] exceeds the allowed maximum [%d].", len(attributes), maxAttributes)
	}
	for name, a := range attributes {
		kind, _, _ := strings.Cut(aws.ToString(a.DataType), ".")
		switch {
		case !attributeName.MatchString(name) || strings.Contains(name, "..") ||
			strings.HasPrefix(strings.ToLower(name), "aws.") || strings.HasPrefix(strings.ToLower(name), "amazon."):
			return 0, invalid("The message attribute name '%s' is invalid.", name)
		case !slices.Contains([]string{"String", "Number", "Binary"}, kind):
			return 0, invalid("The message attribute '%s' has an invalid message attribute type, the set of supported type prefixes is Binary, Number, and String.", name)
		case kind == "Binary" && len(a.BinaryValue) == 0, kind != "Binary" && aws.ToString(a.StringValue) == "":
			return 0, invalid("The message attribute '%s' must contain a non-empty message attribute value for message attribute type '%s'.", name, kind)
		case !sendable(aws.ToString(a.StringValue)):
			return 0, invalid("The message attribute '%s' contains characters that are not allowed.", name)
		}
		size += len(name) + len(*a.DataType) + len(aws.ToString(a.StringValue)) + len(a.BinaryValue)
	}
	return size, nil
}

func (s *Server) changeMessageVisibilityBatch(c *call, in *sqs.ChangeMessageVisibilityBatchInput) (*sqs.ChangeMessageVisibilityBatchOutput, error) {
	if _, _, err := s.queue(c, in.QueueUrl); err != nil {
		return nil, err
	}
	if err := checkBatch(in.Entries, func(e types.ChangeMessageVisibilityBatchRequestEntry) *string { return e.Id }); err != nil {
		return nil, err
	}
	out := &sqs.ChangeMessageVisibilityBatchOutput{
		Successful: []types.ChangeMessageVisibilityBatchResultEntry{},
		Failed:     []types.BatchResultErrorEntry{},
	}
	for _, e := range in.Entries {
		_, err := s.changeMessageVisibility(c, &sqs.ChangeMessageVisibilityInput{
			QueueUrl: in.QueueUrl, ReceiptHandle: e.ReceiptHandle, VisibilityTimeout: e.VisibilityTimeout,
		})
		if err != nil {
			failure := toAPIError(err)
			out.Failed = append(out.Failed, types.BatchResultErrorEntry{
				Id: e.Id, Code: &failure.Code, Message: &failure.Message, SenderFault: true,
			})
			continue
		}
		out.Successful = append(out.Successful, types.ChangeMessageVisibilityBatchResultEntry{Id: e.Id})
	}
	return out, nil
}
