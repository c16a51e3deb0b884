package reviewapp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// pullsVariable names the folder with a file for each pull request, which has its state.
const pullsVariable = "TIDEGAUGE_TEST_PULLS"

// errArgs is for a call that the real program would refuse, or that nobody has thought of.
var errArgs = errors.New("this call is not known to the tests")

// flags are the flags of a call, which are all of those that are wanted and no others.
func flags(args []string, wanted ...string) (map[string]string, error) {
	got := map[string]string{}
	for pair := range slices.Chunk(args, 2) {
		name, ok := strings.CutPrefix(pair[0], "--")
		if !ok || len(pair) != 2 || !slices.Contains(wanted, name) {
			return nil, fmt.Errorf("%v: %w", args, errArgs)
		}
		got[name] = pair[1]
	}
	if len(got) != len(wanted) {
		return nil, fmt.Errorf("%v lacks one of %v: %w", args, wanted, errArgs)
	}
	return got, nil
}

// playAWS is the AWS CLI, as far as the program calls it. The calls go to the stand-in, signed.
func playAWS(ctx context.Context, args []string) error {
	c, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	if len(args) < 2 || args[0] != "sqs" {
		return fmt.Errorf("%v: %w", args, errArgs)
	}
	client := sqs.NewFromConfig(c)
	does := map[string]func(context.Context, *sqs.Client, []string) error{
		"create-queue": awsCreateQueue, "delete-queue": awsDeleteQueue, "get-queue-url": awsQueueURL, "list-queues": awsListQueues,
	}[args[1]]
	if does == nil {
		return fmt.Errorf("%v: %w", args, errArgs)
	}
	return does(ctx, client, args[2:])
}

func awsCreateQueue(ctx context.Context, client *sqs.Client, args []string) error {
	f, err := flags(args, "queue-name", "attributes", "output")
	if err != nil {
		return err
	}
	name, value, _ := strings.Cut(f["attributes"], "=")
	queue := f["queue-name"]
	out, err := client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &queue, Attributes: map[string]string{name: value}})
	if err != nil {
		return err
	}
	fmt.Println(*out.QueueUrl)
	return nil
}

func awsDeleteQueue(ctx context.Context, client *sqs.Client, args []string) error {
	f, err := flags(args, "queue-url")
	if err != nil {
		return err
	}
	url := f["queue-url"]
	_, err = client.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: &url})
	return err
}

func awsQueueURL(ctx context.Context, client *sqs.Client, args []string) error {
	f, err := flags(args, "queue-name", "query", "output")
	if err != nil {
		return err
	}
	name := f["queue-name"]
	out, err := client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &name})
	if err != nil {
		return err
	}
	fmt.Println(*out.QueueUrl)
	return nil
}

func awsListQueues(ctx context.Context, client *sqs.Client, args []string) error {
	f, err := flags(args, "queue-name-prefix", "query", "output")
	if err != nil {
		return err
	}
	prefix := f["queue-name-prefix"]
	out, err := client.ListQueues(ctx, &sqs.ListQueuesInput{QueueNamePrefix: &prefix})
	if err != nil {
		return err
	}
	if len(out.QueueUrls) == 0 {
		fmt.Println("None")
		return nil
	}
	fmt.Println(strings.Join(out.QueueUrls, "\t"))
	return nil
}

// playGH is gh pr view NUMBER --json state --jq .state.
func playGH(args []string) error {
	if len(args) != 7 || !slices.Equal(slices.Delete(slices.Clone(args), 2, 3), []string{"pr", "view", "--json", "state", "--jq", ".state"}) {
		return fmt.Errorf("%v: %w", args, errArgs)
	}
	state, err := os.ReadFile(filepath.Join(os.Getenv(pullsVariable), args[2]))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("GraphQL: Could not resolve to a PullRequest with the number of %s. (repository.pullRequest)", args[2])
	}
	fmt.Println(string(state))
	return err
}
