import { Aws, CfnOutput, CfnParameter, Fn, Stack, StackProps, Tags } from 'aws-cdk-lib';
import { Construct } from 'constructs';
import { Cluster } from './cluster.js';
import { Identities } from './identities.js';
import { Network } from './network.js';
import { Orders } from './orders.js';

export interface ClusterStackProps extends StackProps {
  /** Name of the cluster, which names of tags, roles and log groups have in them. */
  readonly clusterName: string;
}

/** The whole: network, cluster, the demo's queues and image repository, and identities. */
export class ClusterStack extends Stack {
  constructor(scope: Construct, id: string, props: ClusterStackProps) {
    super(scope, id, props);
    const { vpc } = new Network(this, 'Network');
    const { cluster } = new Cluster(this, 'Eks', { name: props.clusterName, vpc, ...this.parameters() });
    const orders = new Orders(this, 'Orders');
    new Identities(this, 'Identities', { clusterName: props.clusterName, cluster, orders });
    Tags.of(this).add('tidegauge.dev/cluster', props.clusterName);

    // What the next steps read.
    this.output('ClusterName', cluster.ref, 'eksctl, helm and kubectl name it');
    this.output('Kubeconfig', `aws eks update-kubeconfig --region ${Aws.REGION} --name ${cluster.ref}`, 'The command that lets kubectl in');
    this.output('VpcId', vpc.vpcId, 'For cloudformation/elb.yaml, and vpcId of the AWS Load Balancer Controller');
    this.output('PublicSubnets', vpc.publicSubnets.map(subnet => subnet.subnetId).join(','), 'For cloudformation/elb.yaml');
    this.output('NodeSecurityGroup', cluster.attrClusterSecurityGroupId, 'The security group of every node, which EKS made');
    this.output('QueueUrl', orders.queue.queueUrl, 'The queue orders');
    this.output('Repository', orders.repository.repositoryUri, 'Where the image of orders is pushed to');
  }

  /**
   * Three zones of whatever region it is. CDK would take two where it cannot ask which there
   * are, and asking takes credentials.
   */
  override get availabilityZones(): string[] {
    return [0, 1, 2].map(n => Fn.select(n, Fn.getAzs()));
  }

  /** What there is no default for that is right for two people. */
  private parameters(): { admin: string; allow: string[] } {
    const admin = new CfnParameter(this, 'Admin', {
      description: 'ARN of the IAM role or user that administers the cluster',
      allowedPattern: 'arn:[a-z-]+:iam::[0-9]{12}:(role|user)/.+',
    });
    const allow = new CfnParameter(this, 'Allow', {
      description: 'Networks that may reach the API over the internet, such as 203.0.113.7/32, with commas between',
      type: 'CommaDelimitedList',
      allowedPattern: '[0-9.]+/[0-9]+',
    });
    return { admin: admin.valueAsString, allow: allow.valueAsList };
  }

  private output(name: string, value: string, description: string): void {
    new CfnOutput(this, name, { value, description });
  }
}
