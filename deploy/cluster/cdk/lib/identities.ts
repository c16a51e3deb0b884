import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Aws } from 'aws-cdk-lib';
import * as eks from 'aws-cdk-lib/aws-eks';
import * as iam from 'aws-cdk-lib/aws-iam';
import { Construct } from 'constructs';
import { acknowledge } from './acknowledge.js';
import { Orders } from './orders.js';

export interface IdentitiesProps {
  /** The name itself and no token: it is part of the name of a tag. */
  readonly clusterName: string;
  readonly cluster: eks.CfnCluster;
  readonly orders: Orders;
}

/** Who in the cluster may do what in AWS: one role for each ServiceAccount, by EKS Pod Identity. */
export class Identities extends Construct {
  private readonly props: IdentitiesProps;

  constructor(scope: Construct, id: string, props: IdentitiesProps) {
    super(scope, id);
    this.props = props;
    this.demo();
    this.nodes();
    this.loadBalancers();
  }

  /** The adapter, and the programs of deploy/demo. */
  private demo(): void {
    const { queue, dead, sine } = this.props.orders;

    // As deploy/iam/permissions.json.
    const adapter = this.add('tidegauge-system', 'tidegauge', [allow(['cloudwatch:GetMetricData'], ['*'])]);
    acknowledge(adapter, everything, 'GetMetricData knows no resources.');

    this.add('orders', 'web', [allow(['sqs:GetQueueUrl', 'sqs:SendMessage'], [queue.queueArn])]);
    this.add('orders', 'worker', [
      allow(['sqs:GetQueueUrl', 'sqs:ReceiveMessage', 'sqs:ChangeMessageVisibility', 'sqs:DeleteMessage'], [queue.queueArn]),
      allow(['sqs:GetQueueUrl', 'sqs:SendMessage'], [dead.queueArn]),
    ]);

    const publish = allow(['cloudwatch:PutMetricData'], ['*'], { StringEquals: { 'cloudwatch:namespace': 'appsimulator' } });
    const why = 'PutMetricData knows no resources; the condition keeps it to one namespace.';
    acknowledge(this.add('orders', 'loader', [publish]), everything, why);
    const simulator = this.add('orders', 'simulator', [
      publish,
      allow([
        'sqs:GetQueueUrl', 'sqs:GetQueueAttributes', 'sqs:ReceiveMessage', 'sqs:SendMessage',
        'sqs:ChangeMessageVisibility', 'sqs:DeleteMessage',
      ], [sine.queueArn]),
    ]);
    acknowledge(simulator, everything, why);
  }

  /** Cluster Autoscaler: looks at all groups, and changes those of this cluster. */
  private nodes(): void {
    const { clusterName } = this.props;
    const nodeGroups = `arn:${Aws.PARTITION}:eks:${Aws.REGION}:${Aws.ACCOUNT_ID}:nodegroup/${clusterName}/*/*`;
    const autoscaler = this.add('kube-system', 'cluster-autoscaler', [
      allow([
        'autoscaling:DescribeAutoScalingGroups', 'autoscaling:DescribeAutoScalingInstances',
        'autoscaling:DescribeLaunchConfigurations', 'autoscaling:DescribeScalingActivities', 'autoscaling:DescribeTags',
        'ec2:DescribeImages', 'ec2:DescribeInstanceTypes', 'ec2:DescribeLaunchTemplateVersions',
        'ec2:GetInstanceTypesFromInstanceRequirements',
      ], ['*']),
      allow(['autoscaling:SetDesiredCapacity', 'autoscaling:TerminateInstanceInAutoScalingGroup'], ['*'], {
        StringEquals: { [`aws:ResourceTag/k8s.io/cluster-autoscaler/${clusterName}`]: 'owned' },
      }),
      allow(['eks:DescribeNodegroup'], [nodeGroups]),
    ]);
    acknowledge(autoscaler, everything,
      'The Describe actions know no resources. The names of groups are EKS\' to choose, so what changes them is kept to a tag.');
    acknowledge(autoscaler, 'AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:eks:<AWS::Region>:<AWS::AccountId>:nodegroup/' + clusterName + '/*/*]',
      'A node group\'s ARN ends with an ID that EKS chooses.');
  }

  /** AWS Load Balancer Controller: its project's own policy, which aws-cdk-lib has. */
  private loadBalancers(): void {
    const file = join(dirname(require.resolve('aws-cdk-lib/package.json')), 'aws-eks/lib/addons/alb-iam_policy-v3.2.2.json');
    const policy = iam.PolicyDocument.fromJson(JSON.parse(readFileSync(file, 'utf8')));
    const controller = this.add('kube-system', 'aws-load-balancer-controller', [], policy);
    const wild = new Set<string>();
    for (const statement of policy.toJSON().Statement) {
      for (const resource of [statement.Resource].flat()) {
        if (resource.includes('*')) {
          wild.add(resource);
        }
      }
    }
    for (const resource of wild) {
      acknowledge(controller, `AwsSolutions-IAM5[Resource::${resource}]`,
        'The controller makes load balancers whose names nobody knows before. The project\'s policy keeps most changes to what has its tags.');
    }
  }

  private add(namespace: string, serviceAccount: string, statements: iam.PolicyStatement[], policy?: iam.PolicyDocument): iam.Role {
    const document = policy ?? new iam.PolicyDocument({ statements });
    const role = new iam.Role(this, `${namespace}-${serviceAccount}`, {
      description: `${this.props.clusterName}: ${namespace}/${serviceAccount}`,
      assumedBy: podsOf(this.props.clusterName, namespace, serviceAccount),
      inlinePolicies: { permissions: document },
    });
    new eks.CfnPodIdentityAssociation(this, `${namespace}-${serviceAccount}-association`, {
      clusterName: this.props.cluster.ref,
      namespace,
      serviceAccount,
      roleArn: role.roleArn,
    });
    return role;
  }
}

/** How cdk-nag names the finding of a statement about all resources. */
const everything = 'AwsSolutions-IAM5[Resource::*]';

/** The pods of one ServiceAccount of one cluster, as in deploy/iam/trust-pod-identity.json. */
export function podsOf(clusterName: string, namespace: string, serviceAccount: string): iam.IPrincipal {
  return new iam.SessionTagsPrincipal(new iam.ServicePrincipal('pods.eks.amazonaws.com', {
    conditions: {
      StringEquals: {
        'aws:SourceAccount': Aws.ACCOUNT_ID,
        'aws:RequestTag/kubernetes-namespace': namespace,
        'aws:RequestTag/kubernetes-service-account': serviceAccount,
      },
      ArnEquals: { 'aws:SourceArn': `arn:${Aws.PARTITION}:eks:${Aws.REGION}:${Aws.ACCOUNT_ID}:cluster/${clusterName}` },
    },
  }));
}

function allow(actions: string[], resources: string[], conditions?: Record<string, unknown>): iam.PolicyStatement {
  return new iam.PolicyStatement({ actions, resources, ...(conditions && { conditions }) });
}
