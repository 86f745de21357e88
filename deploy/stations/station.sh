#!/usr/bin/env bash
# A station by curl and openssl: enrols its key, and gives a device its certificate. See README.md.
#
#   station.sh enrol CODE_FILE
#   station.sh device PROFILE TARGET.pem ATTRIBUTE=VALUE...
#
# Every step may be run again: keys and requests stay in their files, so the service sees the same
# request, and answers with the same certificate.
set -euo pipefail
umask 077
export LC_ALL=C

fail() { echo "station.sh: $2" >&2; exit "$1"; }
usage() { fail 2 "usage: station.sh enrol CODE_FILE | station.sh device PROFILE TARGET.pem ATTRIBUTE=VALUE..."; }

url=${CERTFACTORY_URL:-https://127.0.0.1:8443}
ca=${CERTFACTORY_CA:-/etc/certfactory/tls/ca.pem}
name=${CERTFACTORY_STATION:?the name of this station}
dir=${CERTFACTORY_STATION_DIR:-.}
patience=${CERTFACTORY_RETRY_SECONDS:-120}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Writes standard input to a file that is there whole or not at all, also after a power cut.
write() {
  cat > "$1.new"
  sync "$1.new"
  mv "$1.new" "$1"
  sync "$(dirname "$1")"
}

# A P-256 key that nobody else may read, and a request for it without a subject, unless they are there.
make_request() { # KEY CSR
  [ -s "$1" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 | write "$1"
  [ -s "$2" ] || openssl req -new -key "$1" -subj / | write "$2"
}

# One POST; the answer is in $scratch/answer. Asked again, for so long as $patience, when no answer came,
# or one that says when to come back: `Retry-After`, which is waited for. A second more each time, and
# a part of it by chance, so that a line does not come back all at once.
post() { # PATH BODY_FILE CURL_ARGUMENTS...
  local path=$1 body=$2 start=$SECONDS wait=1 after pause status code; shift 2
  while :; do
    code=0
    status=$(curl -sS --connect-timeout 5 --max-time 30 --cacert "$ca" -o "$scratch/answer" -D "$scratch/headers" \
      -w '%{http_code}' --data-binary "@$body" "$@" "$url$path" 2> "$scratch/said") || code=$?
    after=
    case $code in
      0)
        case $status in 200 | 201) return ;; 408 | 429 | 502 | 503 | 504) after=0 ;; esac
        after=$(tr -d '\r' < "$scratch/headers" | sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]\{1,6\}\)$/\1/p' | tail -n 1 | grep . || echo "$after")
        [ -n "$after" ] || { cat "$scratch/answer" >&2; fail 4 "refused: $status"; }
        ;;
      # not found, not connected, cut off, too late: a service that restarts
      6 | 7 | 16 | 18 | 28 | 35 | 52 | 55 | 56 | 92) after=0 ;;
      *) fail 1 "$(cat "$scratch/said")" ;;
    esac
    if [ "$after" -gt "$wait" ]; then pause=$after; else pause=$wait; fi
    if [ $((SECONDS - start + pause)) -gt "$patience" ]; then
      { cat "$scratch/said"; [ "$code" != 0 ] || cat "$scratch/answer"; } >&2
      fail 5 "not served for $((SECONDS - start)) s"
    fi
    sleep "$pause.$((RANDOM % 10))"
    wait=$((wait < 15 ? wait * 2 : 15))
  done
}

as_station() { post "$@" --cert "$dir/$name.pem" --key "$dir/$name.key"; }

enrol() { # CODE_FILE
  make_request "$dir/$name.key" "$dir/$name.csr"
  # the code goes in by a file: arguments can be seen by everybody
  { printf 'Authorization: Bearer '; tr -d ' \r\n' < "$1"; echo; } > "$scratch/authorization"
  post "/v1/stations/$name/enrolment" "$dir/$name.csr" -H "@$scratch/authorization" \
    -H 'Content-Type: application/pkcs10' -H 'Accept: application/x-pem-file'
  write "$dir/$name.pem" < "$scratch/answer"
  sleep 1.5 # within a second, the service knows the new key
}

quoted() { # a JSON string
  case $1 in *[[:cntrl:]]*) fail 2 "a control character in: $1" ;; esac
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

# The body of the request; the same for the same device.
body() { # PROFILE CSR ATTRIBUTE=VALUE...
  local profile csr=$2 comma='' name value
  # assigned, so that what cannot be quoted ends it all
  profile=$(quoted "$1"); shift 2
  printf '{"profile":%s,"csr":"%s","subject":{' "$profile" "$(awk '{ printf "%s\\n", $0 }' "$csr")"
  for attribute in "$@"; do
    case $attribute in *=*) ;; *) usage ;; esac
    name=$(quoted "${attribute%%=*}")
    value=$(quoted "${attribute#*=}")
    printf '%s%s:%s' "$comma" "$name" "$value"
    comma=,
  done
  printf '}'
  if [ -n "${CERTFACTORY_ORDER:-}" ]; then
    value=$(quoted "$CERTFACTORY_ORDER")
    printf ',"order":%s' "$value"
  fi
  printf '}'
}

# The two places to change for a device that is not a file.
write_device() { write "$1"; }
read_device() { cat "$1"; }

device() { # PROFILE TARGET ATTRIBUTE=VALUE...
  local profile=$1 target=$2 key csr serial; shift 2
  key=${target%.pem}.key csr=${target%.pem}.csr
  make_request "$key" "$csr"
  body "$profile" "$csr" "$@" > "$scratch/body"
  as_station /v1/certificates "$scratch/body" -H 'Content-Type: application/json' -H 'Accept: application/x-pem-file' \
    -H "Idempotency-Key: $(sha256sum < "$scratch/body" | cut -d' ' -f1)"
  cp "$scratch/answer" "$scratch/issued"

  write_device "$target" < "$scratch/issued"
  read_device "$target" > "$scratch/readback"

  cmp -s "$scratch/issued" "$scratch/readback" || fail 1 "$target does not hold what was written"
  [ "$(openssl x509 -in "$scratch/readback" -noout -pubkey)" = "$(openssl pkey -in "$key" -pubout)" ] ||
    fail 1 "the certificate is for another key"
  awk '/-BEGIN CERTIFICATE-/ { n++ } n > 1' "$scratch/readback" > "$scratch/chain"
  openssl verify -partial_chain -purpose sslclient -CAfile "${CERTFACTORY_DEVICE_CA:-$scratch/chain}" \
    -untrusted "$scratch/chain" "$scratch/readback" > "$scratch/said" 2>&1 ||
    { cat "$scratch/said" >&2; fail 1 "the certificate does not verify"; }

  serial=$(openssl x509 -in "$scratch/readback" -noout -serial | cut -d= -f2 | tr A-F a-f)
  as_station "/v1/certificates/$serial/confirmation" "$scratch/readback" -H 'Content-Type: application/x-pem-file'
  echo "$serial"
}

case "${1:-} $#" in
  "enrol 2") enrol "$2" ;;
  "enrol "*) usage ;;
  "device "[1-3]) usage ;;
  "device "*) device "${@:2}" ;;
  *) usage ;;
esac
