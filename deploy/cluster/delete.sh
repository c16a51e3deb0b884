#!/usr/bin/env bash
# Deletes a cluster and whatever was made for it, in the order in which it can be deleted, and says
# what is left that costs.
#
#   deploy/cluster/delete.sh eksctl tidegauge-hpa      # one of eksctl/
#   deploy/cluster/delete.sh cdk tidegauge-hpa         # the stack of cdk/
#   deploy/cluster/delete.sh orders                    # the stack of cloudformation/orders.yaml
#
# --yes does not ask before. It can be run again after a failure. It ends with 1 when something is
# left, when AWS does not say whether, and when the cluster was never there in the last 90 days. It
# needs the AWS CLI and its region (AWS_REGION), kubectl, and eksctl or npm. Queues of review apps
# (orders-pr-*), which cost nothing, stay: `review-app delete` takes them along, before.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n== %s\n' "$*"; }

usage() {
	sed -n '2,/^set /s/^# \{0,1\}//p' delete.sh >&2
	exit 2
}

# try GONE COMMAND... runs a command of AWS. It is 1 if AWS answers with GONE, its words for what is
# not there. Any other error, such as that of too many requests or of a missing right, says nothing
# about that, and ends the run.
try() {
	local gone=$1 words
	shift
	if words=$("$@" 2>&1 >/dev/null); then
		return 0
	fi
	if [[ $words == *"$gone"* ]]; then
		return 1
	fi
	printf '%s\n' "$words" >&2
	exit 1
}

has_cluster() { try "(ResourceNotFoundException)" aws eks describe-cluster --name "$cluster"; }
has_stack() { try "Stack with id $1 does not exist" aws cloudformation describe-stacks --stack-name "$1"; }

# CloudFormation tells of stacks for 90 days after they were deleted.
had_stack() {
	local found
	found=$(aws cloudformation list-stacks --query "StackSummaries[?StackName=='$1'].StackName" --output text) || exit 1
	[[ $found == *"$1"* ]]
}

# What the cluster's controllers made in AWS is theirs to delete, while they still run.
empty() {
	local kind found
	say "load balancers, volumes and nodes that the cluster made"
	kube() { kubectl --kubeconfig "$kubeconfig" "$@"; }
	# Finalizers hold each object until the controller has deleted what it stands for.
	kube delete ingress --all --all-namespaces --timeout=10m
	for kind in gateways.gateway.networking.k8s.io nodepools.karpenter.sh; do
		found=$(kube get crd "$kind" --ignore-not-found --output name)
		if [[ -n $found ]]; then
			kube get "$kind" --all-namespaces --no-headers -o custom-columns=N:.metadata.namespace,M:.metadata.name |
				while read -r namespace name; do
					if [[ $namespace == "<none>" ]]; then namespace=default; fi
					# In the foreground: a NodePool has no finalizer, and would be gone before its nodes.
					kube delete "$kind" "$name" --namespace "$namespace" --cascade=foreground --timeout=20m
				done
		fi
	done
	kube get service --all-namespaces -o 'jsonpath={range .items[?(@.spec.type=="LoadBalancer")]}{.metadata.namespace} {.metadata.name}{"\n"}{end}' |
		while read -r namespace name; do
			kube delete service "$name" --namespace "$namespace" --timeout=10m
		done
	volumes
}

# A claim goes when no pod uses it any more. A StatefulSet would make it again; the pods of others
# wait for it in vain.
volumes() {
	kube delete statefulset --all --all-namespaces --cascade=foreground --timeout=10m
	kube delete persistentvolumeclaim --all --all-namespaces --wait=false
	kube get pod --all-namespaces -o 'jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} {.spec.volumes[*].persistentVolumeClaim.claimName}{"\n"}{end}' |
		while read -r namespace name claims; do
			if [[ -n $claims ]]; then kube delete pod "$name" --namespace "$namespace" --ignore-not-found --timeout=10m; fi
		done
	kube delete persistentvolumeclaim --all --all-namespaces --timeout=10m
	# Then its driver deletes the disk, and takes the volume away at last.
	kube get persistentvolume -o 'jsonpath={range .items[?(@.spec.persistentVolumeReclaimPolicy=="Delete")]}{.metadata.name}{"\n"}{end}' |
		while read -r name; do
			kube wait --for=delete "persistentvolume/$name" --timeout=5m || echo "the volume $name is still there" >&2
		done
}

delete_stack() {
	if has_stack "$1"; then
		say "stack $1"
		aws cloudformation delete-stack --stack-name "$1"
		aws cloudformation wait stack-delete-complete --stack-name "$1"
	fi
}

# What still says that it is the cluster's. A few minutes after the end that may be what is gone.
leftovers() {
	local filter arns
	say "what is left in $region"
	# The last is on volumes of the EBS CSI driver, and on load balancers that Kubernetes itself made.
	arns=$(for filter in "tidegauge.dev/cluster,Values=$1" "elbv2.k8s.aws/cluster,Values=$1" "eks:eks-cluster-name,Values=$1" "kubernetes.io/cluster/$1,Values=owned"; do
		aws resourcegroupstaggingapi get-resources --tag-filters "Key=$filter" \
			--query 'ResourceTagMappingList[].ResourceARN' --output text | tr '\t' '\n' || exit 1
	done | sed '/^$/d; /^None$/d' | sort -u)
	if [[ -n $arns ]]; then
		printf '%s\n' "$arns"
		echo "these have the tags of $1: delete them, or ask again in some minutes" >&2
		return 1
	fi
	echo "nothing"
}

yes=
words=()
for word in "$@"; do
	case $word in
	--yes) yes=1 ;;
	-*) usage ;;
	*) words+=("$word") ;;
	esac
done
road=${words[0]:-} cluster=${words[1]:-}
case "$road ${#words[@]}" in
"eksctl 2" | "cdk 2" | "orders 1") ;;
*) usage ;;
esac

account=$(aws sts get-caller-identity --query Account --output text)
region=$(aws configure get region 2>/dev/null || true)
region=${AWS_REGION:-$region}
: "${region:?say which region: AWS_REGION}"
export AWS_REGION=$region
stack=$cluster
case $road in
eksctl) stack=eksctl-$cluster-cluster ;;
orders) stack=tidegauge-orders ;;
esac
there=
if [[ $road != orders ]] && has_cluster; then
	there=1
elif ! had_stack "$stack"; then
	echo "account $account has no ${cluster:+cluster $cluster and no }stack $stack in region $region, and had none in the last 90 days" >&2
	clusters=$(aws eks list-clusters --query clusters --output text)
	echo "clusters there: ${clusters:-none}" >&2
	exit 1
elif [[ -n $cluster ]]; then
	say "there is no cluster $cluster in $region any more"
fi
if [[ -z $yes ]]; then
	read -r -p "Delete ${cluster:-the queues and images of orders} in account $account, region $region? Type yes: " answer || answer=
	if [[ $answer != yes ]]; then
		echo "nothing was deleted" >&2
		exit 1
	fi
fi

if [[ $road == orders ]]; then
	delete_stack tidegauge-orders
	exit
fi

if [[ -n $there ]]; then
	kubeconfig=$(mktemp)
	trap 'rm -f "$kubeconfig"' EXIT
	aws eks update-kubeconfig --name "$cluster" --kubeconfig "$kubeconfig" >/dev/null
	empty
	if [[ $road == eksctl ]] && has_stack "$cluster-elb" && has_stack "eksctl-$cluster-nodegroup-review"; then
		# They have a security group and a target group of that stack, which has the cluster's VPC.
		say "nodes behind the load balancer of $cluster-elb"
		eksctl delete nodegroup --cluster "$cluster" --region "$region" --name review --disable-eviction --wait
	fi
fi
delete_stack "$cluster-elb"
delete_stack "$cluster-karpenter"

if [[ $road == cdk ]]; then
	say "stack $cluster"
	(cd cdk && npm ci --silent && npm run --silent build && npx cdk destroy --force --context "cluster=$cluster" "$cluster")
else
	if [[ -n $there ]] || has_stack "$stack"; then
		say "cluster $cluster"
		eksctl delete cluster --name "$cluster" --region "$region" --disable-nodegroup-eviction --wait
	fi
	# It is no part of eksctl's stack, and what is in it costs.
	if try "(ResourceNotFoundException)" aws logs delete-log-group --log-group-name "/aws/eks/$cluster/cluster"; then
		say "logs of $cluster"
	fi
fi
leftovers "$cluster"
