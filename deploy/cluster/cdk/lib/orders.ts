import { Duration, RemovalPolicy } from 'aws-cdk-lib';
import * as ecr from 'aws-cdk-lib/aws-ecr';
import * as sqs from 'aws-cdk-lib/aws-sqs';
import { Construct } from 'constructs';
import { acknowledge } from './acknowledge.js';

/**
 * What the orders demo has outside of the cluster. The names are those of deploy/demo/base: an
 * HPA's metric and the program find queues by name.
 */
export class Orders extends Construct {
  readonly queue: sqs.Queue;
  readonly dead: sqs.Queue;
  readonly sine: sqs.Queue;
  readonly repository: ecr.Repository;

  constructor(scope: Construct, id: string) {
    super(scope, id);
    this.dead = new sqs.Queue(this, 'Dead', {
      queueName: 'orders-dead',
      // The longest: somebody has to look at what is in it.
      retentionPeriod: Duration.days(14),
      ...every,
    });
    this.queue = new sqs.Queue(this, 'Queue', {
      queueName: 'orders',
      visibilityTimeout: Duration.seconds(30),
      retentionPeriod: Duration.days(4),
      // Workers put what nobody can process into it themselves. This is for a message that kills
      // its worker, and high: while the database is full a good one comes back, ever less often.
      // Workers wait up to 15 minutes, so 100 times take 23 hours.
      deadLetterQueue: { queue: this.dead, maxReceiveCount: 100 },
      ...every,
    });
    // Where the simulator is on its wave. A restart within two weeks goes on from there.
    this.sine = new sqs.Queue(this, 'Sine', {
      queueName: 'orders-sine',
      visibilityTimeout: Duration.seconds(30),
      retentionPeriod: Duration.days(14),
      ...every,
    });
    acknowledge(this.sine, 'AwsSolutions-SQS3',
      'It holds one message, which is put back at every step; there is none that nobody can process.');
    this.repository = new ecr.Repository(this, 'Repository', {
      repositoryName: 'orders',
      imageScanOnPush: true,
      imageTagMutability: ecr.TagMutability.IMMUTABLE,
      lifecycleRules: [{ maxImageCount: 10, description: 'Of more than ten the oldest goes' }],
      emptyOnDelete: true,
      removalPolicy: RemovalPolicy.DESTROY,
    });
  }
}

/** Of every queue: SQS' own encryption, TLS only, and gone with the stack. */
const every = {
  encryption: sqs.QueueEncryption.SQS_MANAGED,
  enforceSSL: true,
  removalPolicy: RemovalPolicy.DESTROY,
};
