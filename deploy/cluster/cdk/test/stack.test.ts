import assert from 'node:assert/strict';
import { test } from 'node:test';
import { App } from 'aws-cdk-lib';
import { Match, Template } from 'aws-cdk-lib/assertions';
import { ClusterStack } from '../lib/stack.js';

const clusterName = 'tidegauge-hpa';
const template = Template.fromStack(new ClusterStack(new App(), clusterName, { clusterName }));

/** The properties of all resources of a type. */
function all(type: string): any[] {
  return Object.values(template.findResources(type)).map(resource => resource['Properties']);
}

function idsOf(type: string, props: object): string[] {
  return Object.keys(template.findResources(type, { Properties: props }));
}

test('the network has three zones, one NAT gateway and an endpoint of STS', () => {
  const subnets = all('AWS::EC2::Subnet');
  const zones = new Set(subnets.map(subnet => JSON.stringify(subnet.AvailabilityZone)));
  assert.equal(subnets.length, 6);
  assert.equal(zones.size, 3);
  template.resourceCountIs('AWS::EC2::NatGateway', 1);
  template.hasResourceProperties('AWS::EC2::VPCEndpoint', {
    VpcEndpointType: 'Interface',
    PrivateDnsEnabled: true,
    ServiceName: { 'Fn::Join': ['', ['com.amazonaws.', { Ref: 'AWS::Region' }, '.sts']] },
  });
});

test('load balancers find their subnets by tags, and no instance gets a public address by itself', () => {
  for (const [kind, tag] of [['public', 'kubernetes.io/role/elb'], ['private', 'kubernetes.io/role/internal-elb']]) {
    const tagged = idsOf('AWS::EC2::Subnet', { Tags: Match.arrayWith([{ Key: tag, Value: '1' }]) });
    assert.equal(tagged.length, 3);
    assert.ok(tagged.every(id => id.includes(kind!)), `${tag} is on ${tagged}`);
  }
  assert.deepEqual(all('AWS::EC2::Subnet').filter(subnet => subnet.MapPublicIpOnLaunch), []);
});

test('the control plane logs all five types, knows access entries only, and is reached from given networks', () => {
  template.hasResourceProperties('AWS::EKS::Cluster', {
    Name: clusterName,
    Version: '1.37',
    AccessConfig: { AuthenticationMode: 'API', BootstrapClusterCreatorAdminPermissions: false },
    Logging: {
      ClusterLogging: {
        EnabledTypes: [{ Type: 'api' }, { Type: 'audit' }, { Type: 'authenticator' }, { Type: 'controllerManager' }, { Type: 'scheduler' }],
      },
    },
    ResourcesVpcConfig: { EndpointPrivateAccess: true, PublicAccessCidrs: { Ref: 'Allow' } },
  });
  template.hasResourceProperties('AWS::EKS::AccessEntry', { PrincipalArn: { Ref: 'Admin' } });
  template.hasResource('AWS::Logs::LogGroup', {
    Properties: { LogGroupName: `/aws/eks/${clusterName}/cluster`, RetentionInDays: 7 },
    DeletionPolicy: 'Delete',
  });
});

test('one to five nodes are in private subnets, and give pods no credentials', () => {
  template.hasResourceProperties('AWS::EKS::Nodegroup', {
    ScalingConfig: { MinSize: 1, DesiredSize: 2, MaxSize: 5 },
    UpdateConfig: { MaxUnavailable: 1 },
    AmiType: 'AL2023_x86_64_STANDARD',
    InstanceTypes: ['m5.large'],
    Labels: { 'tidegauge.dev/nodes': 'general' },
  });
  const [nodes] = all('AWS::EKS::Nodegroup');
  assert.ok(nodes.Subnets.every((subnet: { Ref: string }) => subnet.Ref.includes('private')), JSON.stringify(nodes.Subnets));
  template.hasResourceProperties('AWS::EC2::LaunchTemplate', {
    LaunchTemplateData: { MetadataOptions: { HttpTokens: 'required', HttpPutResponseHopLimit: 1 } },
  });
});

test('nodes come after the network add-on, and what has pods after the nodes', () => {
  const [nodes] = idsOf('AWS::EKS::Nodegroup', {});
  const before = template.findResources('AWS::EKS::Nodegroup')[nodes!]!['DependsOn'] as string[];
  for (const name of ['vpc-cni', 'kube-proxy', 'eks-pod-identity-agent']) {
    const [addon] = idsOf('AWS::EKS::Addon', { AddonName: name });
    assert.ok(before.includes(addon!), `${name} is not before the nodes: ${before}`);
  }
  for (const name of ['coredns', 'metrics-server']) {
    template.hasResource('AWS::EKS::Addon', { Properties: { AddonName: name }, DependsOn: Match.arrayWith([nodes]) });
  }
});

test('nodes keep pods to NetworkPolicies', () => {
  const [network] = all('AWS::EKS::Addon').filter(addon => addon.AddonName === 'vpc-cni');
  assert.deepEqual(JSON.parse(network.ConfigurationValues), { enableNetworkPolicy: 'true' });
});

test('pods with the label scheduler: fargate of the demo are on Fargate', () => {
  const labels = [{ Key: 'scheduler', Value: 'fargate' }];
  template.hasResourceProperties('AWS::EKS::FargateProfile', {
    Selectors: [{ Namespace: 'demo', Labels: labels }, { Namespace: 'orders', Labels: labels }],
  });
});

test('a message that kills its worker a hundred times is a dead letter', () => {
  const [dead] = idsOf('AWS::SQS::Queue', { QueueName: 'orders-dead' });
  template.hasResourceProperties('AWS::SQS::Queue', {
    QueueName: 'orders',
    VisibilityTimeout: 30,
    RedrivePolicy: { deadLetterTargetArn: { 'Fn::GetAtt': [dead, 'Arn'] }, maxReceiveCount: 100 },
  });
  assert.deepEqual(all('AWS::SQS::Queue').map(queue => queue.QueueName).sort(), ['orders', 'orders-dead', 'orders-sine']);
});

test('each association has a role that only the pods of its ServiceAccount can take', () => {
  const roles = template.findResources('AWS::IAM::Role');
  const seen = [];
  for (const association of all('AWS::EKS::PodIdentityAssociation')) {
    const { Namespace, ServiceAccount, RoleArn } = association;
    const [trust, ...more] = roles[RoleArn['Fn::GetAtt'][0]]!['Properties'].AssumeRolePolicyDocument.Statement;
    assert.deepEqual(more, []);
    assert.deepEqual(trust.Action, ['sts:AssumeRole', 'sts:TagSession']);
    assert.deepEqual(trust.Principal, { Service: 'pods.eks.amazonaws.com' });
    assert.equal(trust.Condition.StringEquals['aws:RequestTag/kubernetes-namespace'], Namespace);
    assert.equal(trust.Condition.StringEquals['aws:RequestTag/kubernetes-service-account'], ServiceAccount);
    seen.push(`${Namespace}/${ServiceAccount}`);
  }
  assert.deepEqual(seen.sort(), [
    'kube-system/aws-load-balancer-controller', 'kube-system/cluster-autoscaler',
    'orders/loader', 'orders/simulator', 'orders/web', 'orders/worker', 'tidegauge-system/tidegauge',
  ]);
});

test('Cluster Autoscaler changes the groups of this cluster only', () => {
  const statements = all('AWS::IAM::Role').flatMap(role => role.Policies ?? [])
    .flatMap(policy => policy.PolicyDocument.Statement)
    .filter(statement => JSON.stringify(statement.Action).includes('autoscaling:SetDesiredCapacity'));
  assert.equal(statements.length, 1);
  assert.deepEqual(statements[0].Condition, {
    StringEquals: { [`aws:ResourceTag/k8s.io/cluster-autoscaler/${clusterName}`]: 'owned' },
  });
});

test('no role allows all actions of a service', () => {
  for (const role of all('AWS::IAM::Role')) {
    for (const policy of role.Policies ?? []) {
      for (const statement of policy.PolicyDocument.Statement) {
        assert.ok(![statement.Action].flat().some(action => action.includes('*')), JSON.stringify(statement));
      }
    }
  }
});

test('nothing outlives the stack', () => {
  for (const [id, resource] of Object.entries(template.toJSON().Resources) as [string, any][]) {
    assert.ok(!/Retain|Snapshot/.test(resource.DeletionPolicy ?? ''), `${id} is kept`);
  }
});

test('the next steps find what they read', () => {
  const names = ['ClusterName', 'Kubeconfig', 'NodeSecurityGroup', 'PublicSubnets', 'QueueUrl', 'Repository', 'VpcId'];
  assert.deepEqual(Object.keys(template.toJSON().Outputs).sort(), names);
});
