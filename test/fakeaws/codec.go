package fakeaws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	cwschemas "github.com/aws/aws-sdk-go-v2/service/cloudwatch/schemas"
	sqsschemas "github.com/aws/aws-sdk-go-v2/service/sqs/schemas"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/encoding/cbor"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/aws/smithy-go/transport/http/protocol/awsjson"
	"github.com/aws/smithy-go/transport/http/protocol/rpcv2"
)

// codec is one wire protocol. Inputs and outputs are the SDK's own types.
type codec interface {
	// decode fills in, a pointer to an input, from a request's body.
	decode(body []byte, in any) error
	// encode writes an output.
	encode(ctx context.Context, operation string, out any) ([]byte, error)
	// encodeError writes an error.
	encodeError(e *apiError) ([]byte, error)
	// header says what the bodies of the two above are.
	header(h http.Header)
}

// smithyCodec is a protocol of the SDK. In these protocols an output is written
// like an input, so that what the SDK writes requests with writes the answers.
// What it reads with reads outputs only.
type smithyCodec struct {
	protocol    smithyhttp.ClientProtocol
	namespace   string // of the error types
	contentType string
	cbor        bool
}

var (
	cloudWatchCBOR = &smithyCodec{
		protocol:    rpcv2.NewCBOR(cwschemas.GraniteServiceVersion20100801),
		namespace:   "com.amazonaws.cloudwatch",
		contentType: "application/cbor",
		cbor:        true,
	}
	cloudWatchJSON = &smithyCodec{
		protocol:    awsjson.New10(cwschemas.GraniteServiceVersion20100801),
		namespace:   "com.amazonaws.cloudwatch",
		contentType: "application/x-amz-json-1.0",
	}
	sqsJSON = &smithyCodec{
		protocol:    awsjson.New10(sqsschemas.AmazonSQS),
		namespace:   "com.amazonaws.sqs",
		contentType: "application/x-amz-json-1.0",
	}
)

// anyOperation stands for the operation's schema, of which the protocols need no
// more than that there is one.
var anyOperation = func() *smithy.OperationSchema {
	shape := smithy.NewSchema(smithy.ShapeID{Namespace: "fakeaws", Name: "Any"}, smithy.ShapeTypeStructure, 0)
	return smithy.NewOperationSchema(shape, shape, shape)
}()

func (c *smithyCodec) decode(body []byte, in any) error {
	if len(body) == 0 {
		return nil
	}
	if c.cbor {
		v, err := cbor.Decode(body)
		if err != nil {
			return fmt.Errorf("reading CBOR: %w", err)
		}
		return fill(in, cborTree(v))
	}
	var tree any
	if err := json.Unmarshal(body, &tree); err != nil {
		return fmt.Errorf("reading JSON: %w", err)
	}
	return fill(in, tree)
}

func (c *smithyCodec) encode(ctx context.Context, _ string, out any) ([]byte, error) {
	shape, ok := out.(smithy.Serializable)
	if !ok {
		return nil, fmt.Errorf("%T cannot be written", out)
	}
	answer, ok := smithyhttp.NewStackRequest().(*smithyhttp.Request)
	if !ok {
		return nil, errors.New("the SDK's requests are of another type")
	}
	if err := c.protocol.SerializeRequest(ctx, anyOperation, shape, answer); err != nil {
		return nil, fmt.Errorf("writing %T: %w", out, err)
	}
	stream := answer.GetStream()
	if stream == nil {
		return nil, nil
	}
	body, err := io.ReadAll(stream)
	if err != nil {
		return nil, fmt.Errorf("writing %T: %w", out, err)
	}
	return body, nil
}

// encodeError writes the message twice, as the models spell the member both ways.
func (c *smithyCodec) encodeError(e *apiError) ([]byte, error) {
	kind := c.namespace + "#" + e.shape()
	if c.cbor {
		message := cbor.String(e.Message)
		return cbor.Encode(cbor.Map{"__type": cbor.String(kind), "message": message, "Message": message}), nil
	}
	body, err := json.Marshal(map[string]string{"__type": kind, "message": e.Message, "Message": e.Message})
	if err != nil {
		return nil, fmt.Errorf("writing error %s: %w", e.Code, err)
	}
	return body, nil
}

func (c *smithyCodec) header(h http.Header) {
	h.Set("Content-Type", c.contentType)
	if c.cbor {
		h.Set("Smithy-Protocol", "rpc-v2-cbor")
	}
}
