#!/usr/bin/env bash
# Registers an issuing CA of certfactory in one AWS account and Region, for just-in-time
# provisioning. Made by `certfactory jitp kit`; README.md beside it tells the whole way.
#
# A second run changes nothing. Standard output says what is done, standard error what is wrong.
# Exit codes: 0 done (or nothing to do), 1 a call failed, 2 usage, 3 the pre-flight found something
# missing, 4 a verification certificate is needed first.
set -euo pipefail

readonly ISSUER=@{ISSUER}
readonly ACCOUNT=@{ACCOUNT}
readonly REGION=@{REGION}
readonly MODE=@{MODE}
readonly CA_ID=@{CA_ID}
readonly ROLE_NAME=@{ROLE_NAME}
readonly ROLE_ARN=@{ROLE_ARN}
readonly MANAGED_POLICY_ARN=@{MANAGED_POLICY_ARN}
readonly TEMPLATE_NAME=@{TEMPLATE_NAME}
readonly THING_TYPES=(@{THING_TYPES})
readonly THING_GROUPS=(@{THING_GROUPS})
readonly BILLING_GROUPS=(@{BILLING_GROUPS})
readonly POLICIES=(@{POLICIES})
readonly PER_VALUE=(@{PER_VALUE})

usage() {
  cat <<'USAGE'
usage: register.sh [options]

  --dry-run                        print every call; make only those that change nothing
  --preflight                      check what must exist, then stop
  --verification-certificate FILE  take this one (DEFAULT mode, when the HSM is elsewhere)
  --group NAME                     also check that this thing group exists; may be repeated
  --inline-template                put the template's body into the CA's registration config,
                                   instead of making a provisioning template
  --no-role                        the IAM role is somebody else's work; do not look at it
  --narrow-role                    give a role without policy role-permissions.json instead of
                                   AWS's managed policy
  --replace                        go on when the CA is registered with another template

The AWS CLI takes credentials from its usual places, and AWS_ENDPOINT_URL for another endpoint.
CERTFACTORY names the certfactory program, where it is not on the PATH.
USAGE
}

DRY_RUN=no
PREFLIGHT_ONLY=no
VERIFICATION=
INLINE=no
WITH_ROLE=yes
NARROW_ROLE=no
REPLACE=no
MORE_GROUPS=()

while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) DRY_RUN=yes ;;
    --preflight) PREFLIGHT_ONLY=yes ;;
    --verification-certificate)
      if [ $# -lt 2 ]; then usage >&2; exit 2; fi
      VERIFICATION=$2
      shift
      ;;
    --group)
      if [ $# -lt 2 ]; then usage >&2; exit 2; fi
      MORE_GROUPS+=("$2")
      shift
      ;;
    --inline-template) INLINE=yes ;;
    --no-role) WITH_ROLE=no ;;
    --narrow-role) NARROW_ROLE=yes ;;
    --replace) REPLACE=yes ;;
    -h | --help) usage; exit 0 ;;
    *) printf 'register.sh: unknown option %s\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=$(mktemp -d)
readonly HERE WORK
trap 'rm -rf "$WORK"' EXIT

# The kit is for one Region, whatever the operator's profile says. Throttled calls are tried again
# by the CLI itself, with growing pauses.
export AWS_REGION=$REGION AWS_DEFAULT_REGION=$REGION AWS_PAGER=
export AWS_RETRY_MODE=${AWS_RETRY_MODE:-standard} AWS_MAX_ATTEMPTS=${AWS_MAX_ATTEMPTS:-6}
readonly CERTFACTORY=${CERTFACTORY:-certfactory}

ANSWER=
CODE=
MESSAGE=
CHANGES=0
ROLE_IS_NEW=no
MISSING=()

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }

show() {
  local what=$1
  shift
  printf '%s: aws' "$what"
  printf ' %q' "$@"
  printf '\n'
}

# One AWS call. Its answer goes to ANSWER; when it fails, AWS's code and text to CODE and MESSAGE.
call() {
  CODE=
  MESSAGE=
  if ANSWER=$(aws "$@" 2>"$WORK/errors"); then
    return 0
  fi
  MESSAGE=$(cat "$WORK/errors")
  CODE=$(sed -n 's/.*An error occurred (\([^)]*\)).*/\1/p' "$WORK/errors" | head -n 1)
  return 1
}

# A question, which changes nothing. Status 1: AWS says that it is not there.
ask() {
  if [ "$DRY_RUN" = yes ]; then show ask "$@"; fi
  if call "$@"; then return 0; fi
  case $CODE in
    ResourceNotFoundException | NoSuchEntity) return 1 ;;
  esac
  give_up "$@"
}

# A change. AWS may need some seconds until it believes in a role that was just made.
change() {
  CHANGES=$((CHANGES + 1))
  if [ "$DRY_RUN" = yes ]; then
    show 'would run' "$@"
    return 0
  fi
  show run "$@"
  local attempt
  for attempt in 1 2 3 4 5 6; do
    if call "$@"; then return 0; fi
    if [ "$ROLE_IS_NEW" = no ] || [ "$attempt" = 6 ]; then break; fi
    case $MESSAGE in
      *[Rr]ole*) say 'waiting until AWS knows the new role'; sleep 5 ;;
      *) break ;;
    esac
  done
  give_up "$@"
}

give_up() {
  warn ''
  show 'this call failed' "$@" >&2
  warn "$MESSAGE"
  warn ''
  explain
  exit 1
}

# What an error of AWS means here, and what to do.
explain() {
  case "$CODE $MESSAGE" in
    RegistrationCodeValidationException*)
      warn "The verification certificate was not made for this account and Region. Its common name must
be the registration code of account $ACCOUNT in $REGION, and that code is another one in every
account and Region, and a new one after delete-registration-code. Read the code, have the factory
sign a new certificate over it, and run this again:"
      how_to_verify
      ;;
    *'in SNI_ONLY mode'*)
      warn 'A CA in SNI_ONLY mode is registered without a verification certificate. Leave the option
--verification-certificate away, or make a kit with --mode default.'
      ;;
    *'in DEFAULT mode'*)
      warn 'A CA in DEFAULT mode needs a verification certificate: proof that the factory holds the CA key.'
      how_to_verify
      ;;
    *basicConstraints*)
      warn 'AWS IoT takes only a certificate that says it is a CA (basicConstraints CA:TRUE), and ca.pem does
not. It is perhaps a leaf, or a self-signed certificate made without extensions. certfactory makes
no such CA; look at it with: openssl x509 -in ca.pem -noout -text'
      ;;
    *'issuer of the certificate did not match'* | *'signature of the certificate failed'*)
      warn 'The verification certificate was not signed by this CA: either by another issuer, or by itself
(a common mistake). It must come from the issuer whose certificate is ca.pem.'
      how_to_verify
      ;;
    CertificateConflictException*)
      warn 'Another CA with the same subject and the same key is registered here, or another account of this
Region has this CA in DEFAULT mode, which only one account may. Look at the CAs that are registered
(aws iot list-ca-certificates). To have one CA in several accounts, register it in SNI_ONLY mode
everywhere (certfactory jitp kit --mode sni-only).'
      ;;
    ResourceAlreadyExistsException*)
      warn 'It was made by somebody else a moment ago, or in another way. Run this again: what is there
already is found and compared.'
      ;;
    CertificateStateException*)
      warn 'The CA is in a state that does not allow this: it must be ACTIVE to take devices in, and INACTIVE
before it can be deleted. See: aws iot describe-ca-certificate --certificate-id '"$CA_ID"
      ;;
    CertificateValidationException*)
      warn 'AWS IoT does not take this certificate: it takes RSA keys of 2048 bits and more, P-256, P-384 and
P-521, signatures with SHA-256 and up, and certificates inside their validity.'
      ;;
    VersionsLimitExceededException*)
      warn "A provisioning template keeps five versions. Delete one that is not the default, then run this again:
  aws iot list-provisioning-template-versions --template-name $TEMPLATE_NAME
  aws iot delete-provisioning-template-version --template-name $TEMPLATE_NAME --version-id N"
      ;;
    LimitExceededException* | LimitExceeded\ *)
      warn 'A quota of the account is used up: ten CAs with one subject (L-A26060BE), 256 provisioning templates,
or the roles of IAM. A new generation of a CA needs a subject of its own.'
      ;;
    ThrottlingException* | Throttling\ * | TooManyRequestsException* | RequestLimitExceeded*)
      warn 'AWS limits how often this call may be made (ten times a second for most of these, in the whole
account and Region), and it was still too often after several tries. Nothing is broken: run this
again in a minute. What was done stays done.'
      ;;
    AccessDenied* | UnauthorizedException* | UnauthorizedOperation* | NotAuthorized* | *'is not authorized to perform'*)
      warn 'The credentials may not make this call. operator-policy.json holds what register.sh needs; mind
iam:PassRole on the role. If another team makes roles, let it make this one from
role-trust-policy.json and run this with --no-role.'
      ;;
    *'template body is invalid'*)
      warn 'AWS IoT refuses the provisioning template. certfactory jitp lint says where and why.'
      ;;
    ConflictingResourceUpdateException*)
      warn 'Somebody else is changing the same thing. Run this again.'
      ;;
    MalformedPolicyDocument*)
      warn 'IAM refuses a policy of the kit. It was perhaps edited; make the kit again.'
      ;;
    InvalidClientTokenId* | UnrecognizedClientException* | ExpiredToken* | SignatureDoesNotMatch* | \
      InvalidSignatureException* | *'Unable to locate credentials'* | *'sso login'* | *'expired'*)
      warn 'AWS does not know these credentials, or they have run out, or this machine has a wrong clock. Sign
in again (aws sso login, or new keys), then run this again.'
      ;;
    *'Could not connect to the endpoint'* | *'Connect timeout'* | *'Read timeout'*)
      warn "AWS cannot be reached from here${AWS_ENDPOINT_URL:+ at $AWS_ENDPOINT_URL}. Check network, proxy and AWS_ENDPOINT_URL."
      ;;
    *'Unknown options'* | *'Invalid choice'* | *'invalid choice'*)
      warn 'This AWS CLI is too old for the call. Use a version of 2023 or later.'
      ;;
    ServiceUnavailable* | InternalFailure* | InternalError*)
      warn 'AWS itself failed. Run this again; what was done stays done.'
      ;;
    *)
      warn 'This answer is not one that the kit knows. What was done stays done; when the cause is mended, run
this again.'
      ;;
  esac
}

how_to_verify() {
  warn "  here:            aws iot get-registration-code --region $REGION --query registrationCode --output text"
  warn "  at the factory:  certfactory issuer verification-certificate $ISSUER --registration-code CODE > verification.pem"
  warn '  here:            ./register.sh --verification-certificate verification.pem'
}

# Two JSON texts are taken as equal when they differ in white space only.
squeezed() { tr -d '[:space:]'; }
same_as_file() { [ "$(printf %s "$1" | squeezed)" = "$(squeezed <"$HERE/$2")" ]; }

check_exists() {
  local what=$1 name=$2 create=$3
  shift 3
  if ask "$@"; then
    say "  found:   $what $name"
  else
    say "  MISSING: $what $name"
    MISSING+=("$what $name; make it with: $create")
  fi
}

check_identity() {
  if ! command -v aws >/dev/null; then
    warn 'register.sh: the AWS CLI is not installed'
    exit 1
  fi
  if [ -n "$VERIFICATION" ] && [ "$MODE" = SNI_ONLY ]; then
    warn 'register.sh: a CA in SNI_ONLY mode is registered without a verification certificate;'
    warn 'leave --verification-certificate away, or make a kit with --mode default'
    exit 2
  fi
  if [ -n "$VERIFICATION" ] && ! [ -r "$VERIFICATION" ]; then
    warn "register.sh: cannot read $VERIFICATION"
    exit 2
  fi
  ask sts get-caller-identity --query Account --output text
  if [ "$ANSWER" != "$ACCOUNT" ]; then
    warn "register.sh: these credentials are of account $ANSWER; the kit is for $ACCOUNT"
    exit 3
  fi
}

check_names() {
  local name
  for name in ${THING_TYPES[@]+"${THING_TYPES[@]}"}; do
    check_exists 'thing type' "$name" "aws iot create-thing-type --thing-type-name $name" \
      iot describe-thing-type --thing-type-name "$name" \
      --query thingTypeMetadata.deprecated --output text
    if [ "$ANSWER" = True ]; then
      MISSING+=("thing type $name is deprecated: no new thing can have it; undo it with: aws iot deprecate-thing-type --thing-type-name $name --undo-deprecate")
    fi
  done
  for name in ${THING_GROUPS[@]+"${THING_GROUPS[@]}"} ${MORE_GROUPS[@]+"${MORE_GROUPS[@]}"}; do
    check_exists 'thing group' "$name" "aws iot create-thing-group --thing-group-name $name" \
      iot describe-thing-group --thing-group-name "$name" --query queryString --output text
    case $ANSWER in
      '' | None) ;;
      *) MISSING+=("thing group $name is a dynamic group: nothing can be put into it; rename it or change the template") ;;
    esac
  done
  for name in ${BILLING_GROUPS[@]+"${BILLING_GROUPS[@]}"}; do
    check_exists 'billing group' "$name" "aws iot create-billing-group --billing-group-name $name" \
      iot describe-billing-group --billing-group-name "$name" --query billingGroupName --output text
  done
  for name in ${POLICIES[@]+"${POLICIES[@]}"}; do
    check_exists 'policy' "$name" "aws iot create-policy --policy-name $name --policy-document file://device-policy.json" \
      iot get-policy --policy-name "$name" --query policyName --output text
  done
  for name in ${PER_VALUE[@]+"${PER_VALUE[@]}"}; do
    say "  not checked: $name (for groups, --group NAME checks one)"
  done
}

# What is there already. A role, a template or a CA of this name that is used for something else
# is reported, never changed.
look_at_role() {
  ROLE_STATE=absent
  ROLE_POLICY=
  if [ "$WITH_ROLE" = no ]; then
    ROLE_STATE=ignored
    return
  fi
  ask iam get-role --role-name "$ROLE_NAME" --query Role.AssumeRolePolicyDocument --output json || return 0
  ROLE_STATE=present
  if ! same_as_file "$ANSWER" role-trust-policy.json; then
    case $ANSWER in
      *iot.amazonaws.com*) warn "register.sh: warning: role $ROLE_NAME has another trust policy than role-trust-policy.json; it is left as it is" ;;
      *) MISSING+=("role $ROLE_NAME is there, and AWS IoT may not take it; add the statement of role-trust-policy.json to its trust policy, or make a kit with another --role-name") ;;
    esac
  fi
  ask iam list-attached-role-policies --role-name "$ROLE_NAME" \
    --query "AttachedPolicies[?PolicyArn=='$MANAGED_POLICY_ARN'].PolicyName" --output text || return 0
  ROLE_POLICY=$ANSWER
  if [ "$NARROW_ROLE" = yes ] && ask iam get-role-policy --role-name "$ROLE_NAME" \
    --policy-name "$TEMPLATE_NAME" --query PolicyDocument --output json; then
    if same_as_file "$ANSWER" role-permissions.json; then ROLE_POLICY=narrow; else ROLE_POLICY=; fi
  elif [ "$NARROW_ROLE" = yes ]; then
    ROLE_POLICY=
  elif [ -z "$ROLE_POLICY" ] && ask iam get-role-policy --role-name "$ROLE_NAME" \
    --policy-name "$TEMPLATE_NAME" --query PolicyDocument --output json; then
    # An earlier run narrowed it; this one does not widen it.
    ROLE_POLICY=narrow
  fi
}

look_at_template() {
  TEMPLATE_STATE=absent
  TEMPLATE_ROLE=
  TEMPLATE_ENABLED=
  if [ "$INLINE" = yes ]; then
    TEMPLATE_STATE=ignored
    return
  fi
  ask iot describe-provisioning-template --template-name "$TEMPLATE_NAME" \
    --query '[type,provisioningRoleArn,enabled,templateBody]' --output text || return 0
  local kind body
  # The body has lines of its own; `read` ends with the text, which is no fault.
  IFS=$'\t' read -r -d '' kind TEMPLATE_ROLE TEMPLATE_ENABLED body <<<"$ANSWER" || true
  if [ "$kind" != JITP ]; then
    MISSING+=("provisioning template $TEMPLATE_NAME is there, and of type $kind; a type is for ever: make a kit with another --template-name")
    return
  fi
  TEMPLATE_STATE=other
  if same_as_file "$body" template-body.json; then TEMPLATE_STATE=same; fi
}

look_at_ca() {
  CA_STATE=absent
  CA_STATUS=
  CA_AUTO=
  CA_CONFIG=other
  ask iot describe-ca-certificate --certificate-id "$CA_ID" \
    --query '[certificateDescription.status,certificateDescription.autoRegistrationStatus,certificateDescription.certificateMode,registrationConfig.templateName,registrationConfig.roleArn,registrationConfig.templateBody]' \
    --output text || return 0
  CA_STATE=present
  local mode name role body
  IFS=$'\t' read -r -d '' CA_STATUS CA_AUTO mode name role body <<<"$ANSWER" || true
  if [ "$mode" != None ] && [ "$mode" != "$MODE" ]; then
    MISSING+=("the CA is registered in mode $mode, the kit is for $MODE; a mode is for ever: make a kit for $mode, or have the CA deactivated and deleted first")
  fi
  if [ "$name" != None ] && [ "$name" != "$TEMPLATE_NAME" ] && [ "$REPLACE" = no ]; then
    MISSING+=("the CA is registered with the template $name, and a CA has one template; --replace puts the kit's in its place")
  fi
  # A body without a name is ours if our role goes with it, and somebody else's if not.
  if [ "$name" = None ] && [ "$role" != None ] && [ "$role" != "$ROLE_ARN" ] && [ "$REPLACE" = no ]; then
    MISSING+=("the CA is registered with a template of its own and the role $role; --replace puts the kit's in its place")
  fi
  if [ "$INLINE" = no ]; then
    if [ "$name" = "$TEMPLATE_NAME" ]; then CA_CONFIG=same; fi
  elif [ "$name" = None ] && [ "$role" = "$ROLE_ARN" ] && same_as_file "$body" template-body.json; then
    CA_CONFIG=same
  fi
}

stop_if_missing() {
  if [ ${#MISSING[@]} -eq 0 ]; then return; fi
  local line
  warn ''
  warn 'The pre-flight found something that must be put right first. Nothing was changed.'
  for line in "${MISSING[@]}"; do warn "  - $line"; done
  exit 3
}

get_verification_certificate() {
  if [ "$MODE" = SNI_ONLY ] || [ "$CA_STATE" = present ] || [ -n "$VERIFICATION" ]; then return; fi
  if [ "$DRY_RUN" = yes ]; then
    show 'would run' iot get-registration-code --query registrationCode --output text
    say "would run: $CERTFACTORY issuer verification-certificate $ISSUER --registration-code CODE > verification.pem"
    VERIFICATION=verification.pem
    return
  fi
  ask iot get-registration-code --query registrationCode --output text
  local code=$ANSWER
  if ! command -v "$CERTFACTORY" >/dev/null; then
    warn ''
    warn 'A verification certificate is needed, and certfactory is not on this machine. At the factory, run'
    warn "  certfactory issuer verification-certificate $ISSUER --registration-code $code > verification.pem"
    warn 'then here'
    warn '  ./register.sh --verification-certificate verification.pem'
    exit 4
  fi
  say "run: $CERTFACTORY issuer verification-certificate $ISSUER --registration-code $code"
  VERIFICATION=$WORK/verification.pem
  if ! "$CERTFACTORY" issuer verification-certificate "$ISSUER" --registration-code "$code" >"$VERIFICATION"; then
    warn 'register.sh: certfactory did not sign the verification certificate; nothing was changed. It needs'
    warn "the running service, and an administrator's client certificate (CERTFACTORY_CLIENT_CERTIFICATE)."
    exit 1
  fi
}

make_role() {
  if [ "$ROLE_STATE" = ignored ]; then return; fi
  if [ "$ROLE_STATE" = absent ]; then
    change iam create-role --role-name "$ROLE_NAME" \
      --assume-role-policy-document "file://$HERE/role-trust-policy.json" \
      --description 'AWS IoT just-in-time provisioning'
    ROLE_IS_NEW=yes
  fi
  if [ -n "$ROLE_POLICY" ]; then return; fi
  if [ "$NARROW_ROLE" = yes ]; then
    change iam put-role-policy --role-name "$ROLE_NAME" --policy-name "$TEMPLATE_NAME" \
      --policy-document "file://$HERE/role-permissions.json"
  else
    change iam attach-role-policy --role-name "$ROLE_NAME" --policy-arn "$MANAGED_POLICY_ARN"
  fi
}

make_template() {
  case $TEMPLATE_STATE in
    ignored) return ;;
    absent)
      change iot create-provisioning-template --template-name "$TEMPLATE_NAME" --type JITP --enabled \
        --template-body "file://$HERE/template-body.json" --provisioning-role-arn "$ROLE_ARN"
      return
      ;;
    other)
      change iot create-provisioning-template-version --template-name "$TEMPLATE_NAME" \
        --template-body "file://$HERE/template-body.json" --set-as-default
      ;;
  esac
  if [ "$TEMPLATE_ROLE" != "$ROLE_ARN" ] || [ "$TEMPLATE_ENABLED" != True ]; then
    change iot update-provisioning-template --template-name "$TEMPLATE_NAME" --enabled \
      --provisioning-role-arn "$ROLE_ARN"
  fi
}

register_ca() {
  local config=registration-config-by-name.json
  if [ "$INLINE" = yes ]; then config=registration-config.json; fi
  local options=()
  if [ "$CA_STATE" = present ]; then
    if [ "$CA_STATUS" != ACTIVE ]; then options+=(--new-status ACTIVE); fi
    if [ "$CA_AUTO" != ENABLE ]; then options+=(--new-auto-registration-status ENABLE); fi
    if [ "$CA_CONFIG" != same ]; then options+=(--registration-config "file://$HERE/$config"); fi
    if [ ${#options[@]} -gt 0 ]; then
      change iot update-ca-certificate --certificate-id "$CA_ID" "${options[@]}"
    fi
    return
  fi
  if [ "$MODE" = SNI_ONLY ]; then
    options+=(--certificate-mode SNI_ONLY)
  else
    options+=(--verification-certificate "file://$VERIFICATION")
  fi
  change iot register-ca-certificate --ca-certificate "file://$HERE/ca.pem" "${options[@]}" \
    --set-as-active --allow-auto-registration --registration-config "file://$HERE/$config" \
    --query certificateId --output text
  if [ "$DRY_RUN" = no ] && [ "$ANSWER" != "$CA_ID" ]; then
    warn "register.sh: AWS calls the CA $ANSWER, the kit expected $CA_ID; ca.pem was perhaps edited"
    exit 1
  fi
}

# AWS is asked again: what counts is what it holds, not what was sent.
confirm() {
  look_at_ca
  if [ "$CA_STATUS" != ACTIVE ] || [ "$CA_CONFIG" != same ] || [ "$CA_AUTO" = DISABLE ]; then
    warn "register.sh: after all calls AWS says: CA $CA_STATE, status $CA_STATUS, auto-registration $CA_AUTO, template $CA_CONFIG"
    exit 1
  fi
  if [ "$CA_AUTO" != ENABLE ]; then
    warn 'register.sh: warning: this endpoint does not say whether auto-registration is on'
  fi
}

say "CA $CA_ID of issuer $ISSUER, account $ACCOUNT, $REGION, mode $MODE"
if [ -n "${AWS_ENDPOINT_URL:-}" ]; then say "endpoint: $AWS_ENDPOINT_URL"; fi
say 'Pre-flight'
check_identity
check_names
look_at_role
look_at_template
look_at_ca
stop_if_missing
if [ "$PREFLIGHT_ONLY" = yes ]; then
  say 'Nothing is missing.'
  exit 0
fi

say 'Registration'
get_verification_certificate
make_role
make_template
register_ca
if [ "$DRY_RUN" = yes ]; then
  say "Dry run: changes that would be made: $CHANGES; none was."
  exit 0
fi
confirm
if [ "$CHANGES" -eq 0 ]; then
  say 'Nothing to change: the CA is ACTIVE, auto-registration is on, the template is the kit'"'"'s.'
else
  say "Changes made: $CHANGES. The CA is ACTIVE, auto-registration is on, the template is the kit's."
fi
