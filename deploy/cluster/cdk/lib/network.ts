import { Tags } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import { Construct } from 'constructs';
import { acknowledge } from './acknowledge.js';

/**
 * A VPC over three zones: nodes and pods in private subnets, load balancers in public ones.
 *
 * 10.0.0.0/16 has room for three private subnets of 8,192 addresses. A pod takes one, and with
 * prefix delegation addresses are taken 16 at a time.
 */
export class Network extends Construct {
  readonly vpc: ec2.Vpc;

  constructor(scope: Construct, id: string) {
    super(scope, id);
    this.vpc = new ec2.Vpc(this, 'Vpc', {
      ipAddresses: ec2.IpAddresses.cidr('10.0.0.0/16'),
      maxAzs: 3,
      // One is cheaper, and less: when its zone fails, nodes of the others have no way out.
      natGateways: 1,
      // To empty it takes a function with rights of its own. Nothing here is in that group.
      restrictDefaultSecurityGroup: false,
      subnetConfiguration: [
        { name: 'private', subnetType: ec2.SubnetType.PRIVATE_WITH_EGRESS, cidrMask: 19 },
        { name: 'public', subnetType: ec2.SubnetType.PUBLIC, cidrMask: 24, mapPublicIpOnLaunch: false },
      ],
    });
    acknowledge(this.vpc, 'AwsSolutions-VPC7',
      'Flow logs cost 0.50 dollars per gigabyte, and a cluster to try autoscaling on is asked no questions that they answer.');

    // By these the AWS Load Balancer Controller finds where load balancers go.
    tag(this.vpc.publicSubnets, 'kubernetes.io/role/elb');
    tag(this.vpc.privateSubnets, 'kubernetes.io/role/internal-elb');

    // With it, to get credentials depends on no NAT gateway. Pods of IRSA ask it; Pod Identity's
    // agent asks EKS Auth, through the NAT gateway.
    const sts = this.vpc.addInterfaceEndpoint('Sts', {
      service: ec2.InterfaceVpcEndpointAwsService.STS,
      subnets: { subnetType: ec2.SubnetType.PRIVATE_WITH_EGRESS },
      open: false,
    });
    sts.connections.allowFrom(ec2.Peer.ipv4('10.0.0.0/16'), ec2.Port.tcp(443), 'Nodes and pods');
  }
}

function tag(subnets: ec2.ISubnet[], key: string): void {
  for (const subnet of subnets) {
    Tags.of(subnet).add(key, '1');
  }
}
