import { Aws, RemovalPolicy } from 'aws-cdk-lib';
import * as ec2 from 'aws-cdk-lib/aws-ec2';
import * as eks from 'aws-cdk-lib/aws-eks';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as logs from 'aws-cdk-lib/aws-logs';
import { Construct } from 'constructs';
import { acknowledge } from './acknowledge.js';
import { podsOf } from './identities.js';

/** HPAs to and from zero need no feature gate from 1.37 on. */
const version = eks.KubernetesVersion.V1_37.version;

export interface ClusterProps {
  readonly name: string;
  readonly vpc: ec2.Vpc;
  /** Networks from which the API may be reached over the internet. */
  readonly allow: string[];
  /** The ARN of the IAM role or user that administers the cluster. */
  readonly admin: string;
}

/**
 * The cluster, its node group and its Fargate profile, of CloudFormation's own resources: no
 * function of a framework's has rights in the cluster.
 */
export class Cluster extends Construct {
  readonly cluster: eks.CfnCluster;
  private readonly props: ClusterProps;

  constructor(scope: Construct, id: string, props: ClusterProps) {
    super(scope, id);
    this.props = props;
    this.cluster = this.controlPlane();
    this.administrator();
    const nodes = this.nodeGroup();
    // Nodes get ready with these, and pull images through the NAT gateway.
    nodes.node.addDependency(this.networkAddon(), this.addon('kube-proxy'), this.addon('eks-pod-identity-agent'),
      ...props.vpc.privateSubnets.map(subnet => subnet.internetConnectivityEstablished));
    // These have pods, which wait for a node.
    for (const name of ['coredns', 'metrics-server']) {
      this.addon(name).node.addDependency(nodes);
    }
    this.fargateProfile();
  }

  private controlPlane(): eks.CfnCluster {
    const { name, vpc, allow } = this.props;
    const role = new iam.Role(this, 'Role', {
      assumedBy: new iam.ServicePrincipal('eks.amazonaws.com'),
      managedPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('AmazonEKSClusterPolicy')],
    });
    managed(role, 'AmazonEKSClusterPolicy', 'What EKS\' control plane does changes with EKS, and so does its policy.');
    // EKS writes to the group of this name, and would make one that keeps everything for ever.
    const log = new logs.LogGroup(this, 'Log', {
      logGroupName: `/aws/eks/${name}/cluster`,
      retention: logs.RetentionDays.ONE_WEEK,
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const cluster = new eks.CfnCluster(this, 'Cluster', {
      name,
      version,
      roleArn: role.roleArn,
      // Extended support costs six times as much per hour; without it EKS upgrades by itself.
      upgradePolicy: { supportType: 'STANDARD' },
      // The add-ons below are EKS' own, with versions that it keeps.
      bootstrapSelfManagedAddons: false,
      // Who makes the cluster is CloudFormation, and has no business in it.
      accessConfig: { authenticationMode: 'API', bootstrapClusterCreatorAdminPermissions: false },
      resourcesVpcConfig: {
        subnetIds: vpc.privateSubnets.map(subnet => subnet.subnetId),
        endpointPrivateAccess: true,
        endpointPublicAccess: true,
        publicAccessCidrs: allow,
      },
      logging: {
        clusterLogging: {
          enabledTypes: ['api', 'audit', 'authenticator', 'controllerManager', 'scheduler'].map(type => ({ type })),
        },
      },
    });
    cluster.node.addDependency(log);
    acknowledge(cluster, 'AwsSolutions-EKS1', 'Reached by kubectl without a VPN, and from the networks of the parameter Allow only.');
    return cluster;
  }

  private administrator(): void {
    new eks.CfnAccessEntry(this, 'Admin', {
      clusterName: this.cluster.ref,
      principalArn: this.props.admin,
      accessPolicies: [{
        policyArn: `arn:${Aws.PARTITION}:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy`,
        accessScope: { type: 'cluster' },
      }],
    });
  }

  /** One to five nodes. Cluster Autoscaler finds the group by tags that EKS sets. */
  private nodeGroup(): eks.CfnNodegroup {
    const role = new iam.Role(this, 'NodeRole', {
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
      // The least of EKS' own: to join the cluster, and to pull images. The network's
      // permissions are the network's, see networkAddon.
      managedPolicies: ['AmazonEKSWorkerNodeMinimalPolicy', 'AmazonEC2ContainerRegistryPullOnly']
        .map(policy => iam.ManagedPolicy.fromAwsManagedPolicyName(policy)),
    });
    managed(role, 'AmazonEKSWorkerNodeMinimalPolicy', 'EKS asks for it, and keeps it as small as nodes of its versions allow.');
    managed(role, 'AmazonEC2ContainerRegistryPullOnly', 'To pull EKS\' own images, which are in repositories of other accounts.');
    const template = new ec2.CfnLaunchTemplate(this, 'NodeTemplate', {
      launchTemplateData: {
        // Version 2 of the metadata service, and one hop: pods get no credentials of the node.
        metadataOptions: { httpTokens: 'required', httpPutResponseHopLimit: 1 },
        blockDeviceMappings: [{
          deviceName: '/dev/xvda',
          ebs: { volumeType: 'gp3', volumeSize: 20, encrypted: true, deleteOnTermination: true },
        }],
      },
    });
    return new eks.CfnNodegroup(this, 'Nodes', {
      clusterName: this.cluster.ref,
      nodeRole: role.roleArn,
      subnets: this.props.vpc.privateSubnets.map(subnet => subnet.subnetId),
      amiType: 'AL2023_x86_64_STANDARD',
      instanceTypes: ['m5.large'],
      scalingConfig: { minSize: 1, desiredSize: 2, maxSize: 5 },
      updateConfig: { maxUnavailable: 1 },
      labels: { 'tidegauge.dev/nodes': 'general' },
      launchTemplate: { id: template.ref, version: template.attrLatestVersionNumber },
    });
  }

  /** The VPC CNI with a role of its own, as the nodes' role would give its rights to every node. */
  private networkAddon(): eks.CfnAddon {
    const role = new iam.Role(this, 'NetworkRole', {
      assumedBy: podsOf(this.props.name, 'kube-system', 'aws-node'),
      managedPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('AmazonEKS_CNI_Policy')],
    });
    managed(role, 'AmazonEKS_CNI_Policy', 'What the VPC CNI does with addresses changes with its versions, and so does its policy.');
    return this.addon('vpc-cni', {
      podIdentityAssociations: [{ serviceAccount: 'aws-node', roleArn: role.roleArn }],
      // By default it keeps pods to no NetworkPolicy, and the demo has some. On Fargate it never does.
      configurationValues: JSON.stringify({ enableNetworkPolicy: 'true' }),
    });
  }

  private addon(name: string, more: Partial<eks.CfnAddonProps> = {}): eks.CfnAddon {
    return new eks.CfnAddon(this, name, { clusterName: this.cluster.ref, addonName: name, ...more });
  }

  /** What is labelled scheduler: fargate runs without nodes; overlays/fargate of the demo is. */
  private fargateProfile(): void {
    const role = new iam.Role(this, 'FargateRole', {
      assumedBy: new iam.ServicePrincipal('eks-fargate-pods.amazonaws.com', {
        conditions: {
          ArnLike: {
            'aws:SourceArn': `arn:${Aws.PARTITION}:eks:${Aws.REGION}:${Aws.ACCOUNT_ID}:fargateprofile/${this.props.name}/*`,
          },
        },
      }),
      managedPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('AmazonEKSFargatePodExecutionRolePolicy')],
    });
    managed(role, 'AmazonEKSFargatePodExecutionRolePolicy', 'To pull images, before a pod is there that could have a role.');
    new eks.CfnFargateProfile(this, 'Fargate', {
      clusterName: this.cluster.ref,
      fargateProfileName: 'demo',
      podExecutionRoleArn: role.roleArn,
      subnets: this.props.vpc.privateSubnets.map(subnet => subnet.subnetId),
      selectors: ['demo', 'orders'].map(namespace => ({ namespace, labels: [{ key: 'scheduler', value: 'fargate' }] })),
    });
  }
}

/** Says why a role has a policy of AWS' and none of ours. */
function managed(role: iam.Role, policy: string, reason: string): void {
  acknowledge(role, `AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/${policy}]`, reason);
}
