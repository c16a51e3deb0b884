#!/usr/bin/env bash
# Runs the shop on this machine, without AWS: the stand-in of AWS, web and worker, all on
# 127.0.0.1. Ctrl-C ends it. The orders stay in the file of ORDERS_SQLITE.
set -euo pipefail
cd "$(dirname "$0")"

port=${PORT:-8080}
export ORDERS_SQLITE=${ORDERS_SQLITE:-$PWD/orders.db}
export AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local

bin=$(mktemp -d)
pids=()
end() {
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$bin"
}
trap end EXIT
trap exit INT TERM

CGO_ENABLED=0 go build -o "$bin/orders" .
(cd ../../../test && CGO_ENABLED=0 go build -o "$bin/fakeaws" ./cmd/fakeaws)

# alive ends the script when one of its programs has ended, which said why.
alive() {
  for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || exit 1; done
}

"$bin/fakeaws" >"$bin/url" &
pids+=($!)
until [ -s "$bin/url" ]; do
  alive
  sleep 0.1
done
AWS_ENDPOINT_URL=$(cat "$bin/url")
export AWS_ENDPOINT_URL

for queue in orders-dead orders; do
  curl --silent --show-error --fail --output /dev/null --aws-sigv4 "aws:amz:$AWS_REGION:sqs" --user local:local \
    --header 'X-Amz-Target: AmazonSQS.CreateQueue' --header 'Content-Type: application/x-amz-json-1.0' \
    --data "{\"QueueName\":\"$queue\"}" "$AWS_ENDPOINT_URL"
done

"$bin/orders" web --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:${ADMIN_PORT:-9797}" --drain 1s --drain-idle 0s &
pids+=($!)
"$bin/orders" worker --admin-listen 127.0.0.1:0 --work 2s &
pids+=($!)
until curl --silent --fail --max-time 2 --output /dev/null "http://127.0.0.1:$port/healthz"; do
  alive
  sleep 0.1
done
alive
echo "The shop is open: http://127.0.0.1:$port"
while alive; do sleep 1; done
