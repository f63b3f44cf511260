#!/usr/bin/env bash
# Trains on a TPU VM or on a slice of many hosts, and goes on after each preemption.
#
#   launch/tpu_pod.sh up             # all of it, until the run has all its steps
#   launch/tpu_pod.sh --dry_run up   # print the commands alone
#   launch/tpu_pod.sh COMMAND        # one part: create, ship, install, preflight, run, logs,
#                                    # status, stop, delete
#
# docs/launching.md says what each part does and what it costs.
set -euo pipefail

# Variables: set them in the environment, or here.
NAME="${NAME:-ddaepp}"                               # of the TPU; your own
PROJECT="${PROJECT:-}"                               # Google Cloud project; none: gcloud's
ZONE="${ZONE:-us-west4-a}"
ACCELERATOR="${ACCELERATOR:-v5litepod-16}"
RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}"            # the software of the TPU VM
DEVICES="${DEVICES:-}"                               # chips that preflight expects, e.g. 16
SPOT="${SPOT:-yes}"                                  # yes: cheaper, and may be preempted
QUEUED="${QUEUED:-yes}"                              # no: a TPU VM at once, or an error
BUCKET="${BUCKET:-}"                                 # Cloud Storage bucket to mount at MOUNT
MOUNT="${MOUNT:-/mnt/ddaepp}"
GCSFUSE="${GCSFUSE:-3.7.1}"                          # its version, where the hosts have none
CONFIG="${CONFIG:-configs/uvit_cifar.py}"
WORKDIR="${WORKDIR:-$MOUNT/runs/$(basename "${CONFIG%.py*}")}"  # on storage that all hosts share
ARGS="${ARGS:-}"                                     # e.g. "--config.data.data_dir=/mnt/ddaepp/data"
RESTARTS="${RESTARTS:-100}"                          # most new starts of "up"
POLL="${POLL:-60}"                                   # seconds between two looks at the run
DELETE_WHEN_DONE="${DELETE_WHEN_DONE:-yes}"
COORDINATOR="${COORDINATOR:-auto}"
COORDINATOR_PORT="${COORDINATOR_PORT:-}"             # none: JAX's own, 8482; else e.g. 8476
PYTHON="${PYTHON:-../venv/bin/python}"               # on the hosts, seen from the sources
# Makes that Python. The hosts' own is older than 3.11.
INSTALL="${INSTALL:-curl -LsSf https://astral.sh/uv/install.sh | sh
  ~/.local/bin/uv venv --quiet --clear --python=3.12 ../venv
  ~/.local/bin/uv pip install --quiet --python=../venv -c requirements/newest.txt '.[tpu]'}"

cd "$(dirname "$0")/.."
dry_run=
if [[ "${1:-}" == --dry_run ]]; then dry_run=1; shift; fi
place=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})
kind=("--accelerator-type=$ACCELERATOR")
[[ "$SPOT" != yes ]] || kind+=(--spot)
# Exit codes after which the same command goes on (docs/several-hosts.md); 134 is JAX's own abort
# when another process has ended.
again=" 75 129 134 137 143 "

say() { echo "[$(date +%H:%M:%S)] $*"; }

run() {
  if [[ -n "$dry_run" ]]; then echo "+ $*"; else "$@"; fi
}

tpus() { run gcloud compute tpus "$@" "${place[@]}"; }

on() {  # on WORKERS COMMAND: runs a command in the home directory of one worker, or of all
  tpus tpu-vm ssh "$NAME" "--worker=$1" "--command=$2"
}

described() {  # described queued-resources|tpu-vm FIELD: MISSING and UNKNOWN stand for no answer
  local text
  if text=$(gcloud compute tpus "$1" describe "$NAME" "${place[@]}" "--format=value($2)" 2>&1); then
    echo "${text##*$'\n'}"
  elif [[ "$text" == *NOT_FOUND* ]]; then
    echo MISSING
  else
    echo "$text" >&2
    echo UNKNOWN
  fi
}

state() {  # none, waiting, ready, gone or unknown
  local seen=ACTIVE
  if [[ -n "$dry_run" ]]; then echo none; return; fi
  if [[ "$QUEUED" == yes ]]; then
    seen=$(described queued-resources state.state)
    [[ "$seen" != MISSING ]] || { echo none; return; }
  fi
  [[ "$seen" != ACTIVE ]] || seen=$(described tpu-vm state)
  case "$seen" in
    READY) echo ready ;;
    UNKNOWN) echo unknown ;;
    MISSING) if [[ "$QUEUED" == yes ]]; then echo gone; else echo none; fi ;;
    FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED) echo gone ;;
    *) echo waiting ;;
  esac
}

delete() {
  if [[ "$QUEUED" == yes ]]; then
    tpus queued-resources delete "$NAME" --force --quiet
  else
    tpus tpu-vm delete "$NAME" --quiet
  fi
}

create() {  # waits until the TPU is there; one that was preempted is replaced
  local now
  while now=$(state); [[ "$now" != ready ]]; do
    case "$now" in
      gone) say "$NAME was preempted or failed; it is made anew"; delete ;;
      none)
        say "asking for $ACCELERATOR"
        if [[ "$QUEUED" == yes ]]; then
          tpus queued-resources create "$NAME" "--node-id=$NAME" "--runtime-version=$RUNTIME" \
            "${kind[@]}"
        else
          tpus tpu-vm create "$NAME" "--version=$RUNTIME" "${kind[@]}"
        fi ;;
      *) say "waiting for $NAME ($now)"; sleep "$POLL" ;;
    esac
    [[ -z "$dry_run" ]] || return 0
  done
}

ship() {  # copies the sources of this checkout
  local archive
  archive="$(mktemp -d)/sources.tar.gz"
  tar -czf "$archive" --exclude=__pycache__ setup.py pyproject.toml README.md LICENSE requirements \
    configs ddaepp_jax || return
  tpus tpu-vm scp "$archive" "$NAME:" --worker=all || return
  rm -r "$(dirname "$archive")"
  on all "rm -rf sources && mkdir sources && tar -xzf sources.tar.gz -C sources"
}

install() {  # makes the environment, and mounts the bucket
  on all "set -e; cd sources; $INSTALL" || return
  [[ -n "$BUCKET" ]] || return 0
  # Orbax renames the directories of checkpoints.
  on all "set -e; mountpoint -q '$MOUNT' && exit
    if ! command -v gcsfuse >/dev/null; then
      curl -fsSLo /tmp/gcsfuse.deb https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$GCSFUSE/gcsfuse_${GCSFUSE}_amd64.deb
      sudo apt-get -qq install -y /tmp/gcsfuse.deb
    fi
    sudo mkdir -p '$MOUNT' && sudo chown \$USER '$MOUNT'
    gcsfuse --implicit-dirs --rename-dir-limit=100000 '$BUCKET' '$MOUNT'"
}

program() {  # program NAME ARGUMENT..: its command on a host
  local name="$1"
  shift
  # shellcheck disable=SC2086  # several arguments
  printf '%q ' "$PYTHON" -m "ddaepp_jax.$name" "--config=$CONFIG" "--workdir=$WORKDIR" \
    "--coordinator=$COORDINATOR" $ARGS "$@"
}

sources() {  # goes to the sources, and sets the port
  [[ -z "$COORDINATOR_PORT" ]] || printf 'export JAX_COORDINATOR_PORT=%q; ' "$COORDINATOR_PORT"
  echo "cd sources;"
}

preflight() {
  on all "$(sources) $(program preflight ${DEVICES:+"--devices=$DEVICES"})"
}

halt() {  # ends what runs, so that it saves its state
  # shellcheck disable=SC2016  # The hosts expand it.
  on all "$1"'
    group=$(cat pid 2>/dev/null) && kill -TERM -- "-$group" 2>/dev/null || exit 0
    for _ in $(seq 90); do kill -0 -- "-$group" 2>/dev/null || exit 0; sleep 1; done
    kill -KILL -- "-$group"'
}

start() {  # starts the run in the background; the shell around it writes its exit code
  halt "" || return
  on all "rm -f pid exit_code stopped; $(sources)
    nohup setsid bash -c 'trap : TERM HUP; \"\$@\"; echo \$? >../exit_code' _ $(program main) \
      >>../log 2>&1 </dev/null & echo \$! >../pid"
}

outcome() {  # running, complete, stopped, again, "failed CODE", or unknown
  local codes code result=complete
  # shellcheck disable=SC2016  # The hosts expand it.
  codes=$(on all 'if [ -e stopped ]; then echo ended=stopped
    elif [ -e exit_code ]; then echo "ended=$(cat exit_code)"
    elif kill -0 "$(cat pid)" 2>/dev/null; then echo ended=no
    else echo ended=never; fi' 2>/dev/null | sed -n 's/.*ended=//p') || true
  [[ -n "$codes" ]] || { echo unknown; return; }
  for code in $codes; do
    case "$code" in
      no) echo running; return ;;
      stopped) echo stopped; return ;;
    esac
  done
  for code in $codes; do
    if [[ "$code" == never || "$again" == *" $code "* ]]; then
      result=again
    elif [[ "$code" != 0 ]]; then
      echo "failed $code"
      return
    fi
  done
  echo "$result"
}

follow() {  # waits for the end of the run; prints what became of it on the last line
  local now
  while now=$(outcome); [[ "$now" == running || "$now" == unknown ]]; do
    if [[ "$now" == running ]]; then
      say "$(on 0 'tail -n 1 log | tr "\r" "\n" | tail -n 1' 2>/dev/null || true)" >&2
    fi
    [[ $(state) != @(gone|none) ]] || { now=again; break; }
    sleep "$POLL"
  done
  echo "$now"
}

up() {
  local number now
  for ((number = 0; number <= RESTARTS; number++)); do
    create
    if [[ -n "$dry_run" ]] || [[ $(outcome) != running ]]; then
      if ! { ship && install && preflight && start; }; then
        [[ $(state) == gone ]] && continue
        say "the start failed; the TPU still costs: launch/tpu_pod.sh delete" >&2
        return 2
      fi
    fi
    if [[ -n "$dry_run" ]]; then logs; delete; return; fi
    now=$(follow)
    say "the run: $now"
    case "$now" in
      complete) [[ "$DELETE_WHEN_DONE" != yes ]] || delete; return 0 ;;
      again) ;;
      *)
        say "the TPU still costs: launch/tpu_pod.sh logs, then delete" >&2
        [[ "$now" == stopped ]] && return 0
        return "${now#failed }" ;;
    esac
  done
  say "started $RESTARTS times anew without an end; the TPU still costs: delete" >&2
  return 75
}

logs() { on 0 "tail -n 100 -F log"; }

status() { say "$NAME: $(state)"; say "the run: $(outcome)"; }

case "${1:-}" in
  create | ship | install | preflight | logs | status | delete | up) "$1" ;;
  run) start ;;
  stop) halt "touch stopped;" ;;
  *)
    echo "usage: [VARIABLE=VALUE ..] launch/tpu_pod.sh [--dry_run] COMMAND; COMMAND is one of" \
      "up, create, ship, install, preflight, run, logs, status, stop, delete" >&2
    exit 2 ;;
esac
