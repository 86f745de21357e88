#!/usr/bin/env bash
# Loads an export of `certfactory cert export --format bulk` into AWS IoT.
#
#   register-bulk.sh task BUCKET ROLE_ARN   all devices, by a registration task; waits for its end
#   register-bulk.sh single THING           one of them, by register-thing
#   register-bulk.sh reports TASK_ID        links to the results and the errors of a task
#
# Beside it: bulk.ndjson and bulk-template.json. Needs the AWS CLI, with credentials and a Region.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
  sed -n '2,8p' "$0" | sed 's/^# \{0,1\}//' >&2
  exit 2
}

reports() {
  for kind in RESULTS ERRORS; do
    echo "$kind:"
    aws iot list-thing-registration-task-reports --task-id "$1" --report-type "$kind" \
      --query resourceLinks --output text
  done
}

task() {
  local bucket="$1" role="$2" key id progress status
  # A name of its own for each content: a task that runs never sees its input change.
  key="certfactory/$(sha256sum bulk.ndjson | cut -c1-16).ndjson"
  aws s3 cp bulk.ndjson "s3://$bucket/$key"
  id="$(aws iot start-thing-registration-task --template-body file://bulk-template.json \
    --input-file-bucket "$bucket" --input-file-key "$key" --role-arn "$role" \
    --query taskId --output text)"
  echo "task $id"
  while :; do
    progress="$(aws iot describe-thing-registration-task --task-id "$id" \
      --query '[status,percentageProgress,successCount,failureCount]' --output text)"
    echo "$progress"
    status="${progress%%[[:space:]]*}"
    [ "$status" = InProgress ] || break
    sleep 10
  done
  reports "$id"
  [ "$status" = Completed ]
}

single() {
  local line
  # The line of the thing of exactly this name is, as it stands, what --parameters takes.
  line="$(grep -F -m1 "{\"ThingName\":\"$1\"," bulk.ndjson)" || {
    echo "no thing named $1 in bulk.ndjson" >&2
    exit 3
  }
  aws iot register-thing --template-body file://bulk-template.json --parameters "$line"
}

case "${1:-}:$#" in
  task:3) task "$2" "$3" ;;
  single:2) single "$2" ;;
  reports:2) reports "$2" ;;
  *) usage ;;
esac
