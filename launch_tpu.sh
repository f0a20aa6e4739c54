#!/usr/bin/env bash
# Runs main.py on Cloud TPU slices, and resumes it after preemptions. See docs/launch.md.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch_tpu.sh COMMAND --name=NAME --zone=ZONE [options] [-- flags of main.py]

  create   request the slices (a queued resource) and wait for them
  setup    copy this checkout to every worker and install it there
  run      create and set up the slices if needed, start main.py with the flags after -- on
           every worker, and watch it; repeat this after a preemption, until the run has ended
  status   state of the slices, and of the run on every worker
  logs     the last lines of every worker's log
  stop     end the run and delete the slices

  --name=NAME          of the queued resource and its slices
  --zone=ZONE          for example us-west4-a
  --project=PROJECT    default: that of gcloud
  --type=TYPE          accelerator type, for example v5litepod-256 (create, run)
  --version=VERSION    runtime version; default: by --type, if known (create, run)
  --slices=N           number of slices of the run (default 1)
  --elastic            request each slice separately: the run continues on those that are available,
                       or on as many of them as it can
  --spot               cheaper slices, which may be preempted
  --env=NAME=VALUE     environment variable on every worker; may be repeated
  --lines=N            of each log (default 20)
  --poll=SECONDS       between two checks of the run (default 60)
  --retries=N          consecutive restarts after failures other than preemptions (default 3)
  --dry-run            print every command without running it
USAGE
}

# Exit status of main.py after SIGTERM: the state is saved, the same command resumes.
readonly preempted=75
# Exit statuses of main.py for bad input, where a restart would not help, and for a batch, a mesh or a
# memory that does not fit the devices, where another number of slices may help.
readonly bad_input=2 unfit_devices=3
readonly folder=xkd_jax
# Consecutive failed requests to Google before the first successful one that end the script.
readonly silences=3
# Ends with status 75 in a row, without a line of a new step or fold in the logs, that end the script.
readonly most_stops=3
# Of elastic runs: port of libtpu's connections between slices, and seconds from SIGTERM to SIGKILL
# if a slice was lost (JAX itself gives up a lost process after 100 s), or to save.
readonly megascale_port=8080 lost_seconds=150 save_seconds=300
# Exit status that is assumed for a worker without one.
readonly lost=1
# Tests on a worker whether main.py runs: it has no exit status, and its shell, the leader of a
# process group, exists. A shell that has ended exists until init reads its status.
# shellcheck disable=SC2016 # expanded on the worker
readonly alive='test -e .pid && ! test -s .status && kill -0 -- "-$(cat .pid)" 2> /dev/null'

fail() {
  echo "error: $*" >&2
  exit 2
}

parse() {
  name="" zone="" project="" type="" version="" slices=1 elastic="" spot="" lines=20 poll=60 retries=3 dry=""
  imagined=ABSENT answered="" silent=0 environment=() arguments=() members=()
  [[ $# -gt 0 ]] || { usage >&2; exit 2; }
  command=$1
  shift
  while [[ $# -gt 0 ]]; do
    case $1 in
      --name=*) name=${1#*=} ;;
      --zone=*) zone=${1#*=} ;;
      --project=*) project=${1#*=} ;;
      --type=*) type=${1#*=} ;;
      --version=*) version=${1#*=} ;;
      --slices=*) slices=${1#*=} ;;
      --elastic) elastic=yes ;;
      --spot) spot=yes ;;
      --env=*=*) environment+=("${1#--env=}") ;;
      --lines=*) lines=${1#*=} ;;
      --poll=*) poll=${1#*=} ;;
      --retries=*) retries=${1#*=} ;;
      --dry-run) dry=yes ;;
      --) shift; arguments=("$@"); break ;;
      *) fail "$(printable "$1") is not an option: see launch_tpu.sh --help." ;;
    esac
    shift
  done
}

check() {
  local LC_ALL=C option item # in other locales a-z may contain more letters
  [[ -n $name ]] || fail "--name is missing: give a name for the slices."
  [[ -n $zone ]] || fail "--zone is missing: give the zone of the slices, for example us-west4-a."
  fits name '[a-z]([-a-z0-9]{0,54}[a-z0-9])?' "at most 56 of a-z, 0-9 and -, a letter first"
  fits zone '[a-z]+(-[a-z0-9]+)+' "one such as us-west4-a"
  fits project '([a-z0-9.-]+:)?[a-z][-a-z0-9]{0,62}' "a project's ID, of a-z, 0-9 and -"
  fits type '[a-z][a-z0-9]*-[0-9]+' "one such as v5litepod-256"
  fits version '[A-Za-z0-9][A-Za-z0-9._-]*' "one such as v2-alpha-tpuv5-lite"
  for option in slices lines poll retries; do
    [[ ${!option} =~ ^(0|[1-9][0-9]{0,5})$ ]] ||
      fail "--$option=$(printable "${!option}") is not a number: give one of 0 to 999999."
  done
  for item in ${environment[@]+"${environment[@]}"}; do
    [[ ${item%%=*} =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
      fail "--env=$(printable "${item%%=*}") does not name a variable: give letters, digits and _ before the =."
  done
  [[ $slices -gt 0 ]] || fail "--slices=0: give at least 1."
  [[ -z $elastic || $slices -gt 1 ]] || fail "--elastic is for several slices: give --slices=2 or more."
  if [[ $command == create || $command == run ]]; then
    [[ -n $type ]] || fail "--type is missing: give an accelerator type such as v5litepod-256."
    [[ -n $version ]] || version=$(runtime_version)
  fi
  if [[ $command == run && ${#arguments[@]} -eq 0 ]]; then
    fail "flags of main.py are missing: give them after --, for example --config=configs/k400.py."
  fi
  where=(--zone="$zone" --quiet)
  [[ -z $project ]] || where+=(--project="$project")
}

# Refuses the value of an option unless a pattern matches all of it.
fits() {
  local option=$1 pattern=$2 allowed=$3
  [[ -z ${!option} || ${!option} =~ ^($pattern)$ ]] ||
    fail "--$option=$(printable "${!option}") is not a valid $option: give $allowed."
}

# Prints a text for a message, quoted as by a shell unless it is printable ASCII.
printable() {
  local LC_ALL=C
  if [[ $1 =~ ^[[:print:]]*$ ]]; then echo "$1"; else printf '%q\n' "$1"; fi
}

runtime_version() {
  case $type in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) fail "--type=$type has no known runtime: give --version too." ;;
  esac
}

# Runs a command, or prints it in a dry run. All commands with effects use it.
do_() {
  if [[ -n $dry ]]; then
    show "$@"
  else
    "$@"
  fi
}

show() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  echo "${line% }"
}

queue() {
  local verb=$1
  shift
  do_ gcloud compute tpus queued-resources "$verb" "$name" "${where[@]}" "$@"
}

# Prints the slices that commands are for: of an elastic run those that are there, if some were lost.
nodes() {
  local i
  if [[ ${#members[@]} -gt 0 ]]; then
    printf '%s\n' "${members[@]}"
  elif [[ $slices -eq 1 ]]; then
    echo "$name"
  else
    for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
  fi
}

# Runs a command on every worker of every slice, in parallel.
everywhere() {
  local node failed=0 pids=() pid
  for node in $(nodes); do
    do_ gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command="$1" &
    pids+=($!)
    [[ -z $dry ]] || wait "$!"
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=$?; done
  return "$failed"
}

# Sets `now` to the state of the queued resource, and `reason` to the error if it is unknown. A dry
# run assumes that nothing exists before it is created.
state() {
  reason=""
  if [[ -n $dry ]]; then
    now=$imagined
  elif now=$(queue describe --format='value(state.state)' 2> /dev/null); then
    answered=yes
  else
    reason=$(queue describe 2>&1 > /dev/null || true)
    case $reason in
      *NOT_FOUND*) now=ABSENT answered=yes ;;
      *) now=UNREACHABLE ;;
    esac
  fi
  [[ $now != UNREACHABLE ]] || unanswered
}

# Prints why Google does not answer, and ends the script if no request ever succeeded.
unanswered() {
  [[ -n $reason ]] || reason="gcloud gives no reason"
  say "$name is $now: $(printable "$(tr '\n' ' ' <<< "$reason" | sed 's/ *$//')")"
  [[ -z $answered ]] || return 0
  silent=$((silent + 1))
  [[ $silent -lt $silences ]] ||
    fail "gcloud did not answer $silences times, for the reason above: check that gcloud auth list shows an account, that --project and --zone are right, and that the network works."
}

ask() {
  local request=(--accelerator-type="$type" --runtime-version="$version")
  if [[ $slices -eq 1 ]]; then
    request+=(--node-id="$name")
  else
    request+=(--node-count="$slices" --node-prefix="$name")
  fi
  [[ -z $spot ]] || request+=(--spot)
  queue create "${request[@]}"
  imagined=ACTIVE
}

# Runs a function for one slice of an elastic run, which is a queued resource by itself.
of_slice() {
  local name=$1 slices=1 elastic="" members=()
  shift
  "$@"
}

# Also of the others if it fails for one, which may not exist.
each_slice() {
  local node failed=0
  for node in $(nodes); do of_slice "$node" "$@" || failed=$?; done
  return "$failed"
}

create() {
  if [[ -n $elastic ]]; then
    each_slice create
    return
  fi
  ask || return
  local now
  while state; [[ $now != ACTIVE ]]; do
    case $now in
      FAILED | SUSPENDING | SUSPENDED) fail "$name is $now: delete it with launch_tpu.sh stop, and create it again." ;;
    esac
    [[ $now == UNREACHABLE ]] || say "$name is $now"
    sleep "$poll"
  done
}

delete() {
  if [[ -n $elastic ]]; then
    each_slice delete
    return
  fi
  queue delete --force
}

setup() {
  local node
  scratch=/tmp/xkd_jax # of a dry run
  [[ -n $dry ]] || scratch=$(mktemp -d)
  trap 'do_ rm -rf "$scratch"' EXIT
  local archive=$scratch/$folder.tar.gz
  do_ tar --exclude=./.git --exclude=./.venv --exclude=./runs --exclude=__pycache__ \
    -czf "$archive" -C "$(dirname -- "$0")" .
  for node in $(nodes); do
    do_ gcloud compute tpus tpu-vm scp "$archive" "$node:$folder.tar.gz" "${where[@]}" --worker=all
  done
  do_ rm -rf "$scratch"
  trap - EXIT
  # The images have a Python older than 3.11; uv installs another one.
  everywhere "set -e; mkdir -p $folder; tar -xzf $folder.tar.gz -C $folder; cd $folder;\
 python3 -m pip install -q --user uv; python3 -m uv venv -q --allow-existing --python 3.12 .venv;\
 python3 -m uv pip install -q --python .venv/bin/python -r requirements.txt 'jax[tpu]' gcsfs\
 -c locks/3.12.txt;\
 touch .installed"
}

# Starts main.py in the background on every worker where it isn't running. It survives a lost
# connection, and this script may be restarted.
start() {
  local flags="" variables="" item
  for item in "${arguments[@]}"; do flags+=" $(printf '%q' "$item")"; done
  for item in ${environment[@]+"${environment[@]}"}; do variables+="$(printf '%q' "$item") "; done
  # the shell ignores the SIGTERM on which main.py saves, to write its exit status
  local inner="trap : TERM; env ${variables}.venv/bin/python main.py$flags; echo \$? > .status"
  everywhere "cd $folder; if $alive; then echo running already; else rm -f .status;\
 setsid nohup bash -c $(printf '%q' "$inner") >> run.log 2>&1 < /dev/null & echo \$! > .pid; fi"
}

# Prints "running" or the exit status of each worker; a worker that was restarted has none.
answers() {
  everywhere "cd $folder; if $alive; then echo running; else cat .status || echo $lost; fi"
}

# Prints for each worker how many different steps and folds its log has: a step that is repeated
# after a restart has the same loss.
lines_of_progress() {
  everywhere "cd $folder; grep -aoE '^(step|fold) +[0-9,]+(/[0-9,]+ +loss)? +[^ ]+' run.log |\
 sort -u | wc -l"
}

# Counts the ends with status 75 since the last progress, and ends the script if they are too many.
# Lost slices end a run too, and are not counted: their logs are lost with them.
count_stop() {
  local found most=0 word
  if [[ -z $stopped ]]; then
    progress=0 stops=0
    return
  fi
  found=$(lines_of_progress 2> /dev/null) || return 0 # no connection: counted at the next end
  for word in $found; do
    if [[ $word =~ ^[0-9]{1,9}$ && $word -gt $most ]]; then most=$word; fi
  done
  if [[ $most -gt $progress ]]; then
    progress=$most stops=0
    return
  fi
  stops=$((stops + 1))
  [[ $stops -lt $most_stops ]] && return
  logs
  fail "the run was stopped on request $stops times in a row without a new step: find out what stops it before it saves, such as a time limit or repeated maintenance, and run this command again."
}

# Counts a failure with this status, and ends the script if there are too many in a row.
count_failure() {
  failures=$((failures + 1))
  [[ $failures -le $retries ]] || fail "the run failed $failures times in a row, last with status $1: see the log above."
}

# Waits for the run. Returns 0 if it has ended, 75 if it or its slices were preempted, otherwise
# the exit status of main.py. Sets `stopped` if main.py itself ended with 75.
watch() {
  local now outcome
  stopped=""
  while true; do
    [[ -n $dry ]] || sleep "$poll"
    state
    if [[ $now != ACTIVE ]]; then
      [[ $now == UNREACHABLE ]] || say "$name is $now"
      return "$preempted"
    fi
    if [[ -n $dry ]]; then
      answers
      echo "# after status $preempted, to compare with the restart before:"
      lines_of_progress
      return 0
    fi
    judge
    [[ -n $outcome ]] || continue
    return "$outcome"
  done
}

# Sets `outcome` to the exit status of the run; to nothing if it runs, or without a connection.
judge() {
  local said word words failure=0
  outcome=""
  said=$(answers 2> /dev/null) || return 0 # the state of the slices shows the reason
  read -r -d '' -a words <<< "$said" || true
  for word in "${words[@]}"; do
    [[ $word == running || $word =~ ^[0-9]{1,3}$ ]] || word=$lost # not an output of `answers`
    case $word in
      running) return 0 ;;
      0) ;;
      "$preempted") [[ $failure -ne 0 ]] || failure=$word ;;
      # other workers fail because they lost one: these two statuses are the most specific ones
      *) [[ $failure -eq $bad_input || $failure -eq $unfit_devices ]] || failure=$word ;;
    esac
  done
  [[ $failure -ne $preempted ]] || stopped=yes
  outcome=$failure
}

# Requests the slices of an elastic run that do not exist, and sets `present` to those that are
# there. A slice whose state is unknown counts as it did before.
look() {
  local node now found=() members=()
  for node in $(nodes); do
    of_slice "$node" state
    case $now in
      ACTIVE) found+=("$node") ;;
      UNREACHABLE) [[ " ${present[*]-} " != *" $node "* ]] || found+=("$node") ;;
      ABSENT | SUSPENDING | SUSPENDED | FAILED)
        say "$node is $now"
        # it may be gone meanwhile, or be asked for next time
        [[ $now == ABSENT ]] || of_slice "$node" delete || true
        of_slice "$node" ask || true
        ;;
    esac
  done
  present=(${found[@]+"${found[@]}"})
}

# Sets `chosen` to slices of `present`: the largest number of them on which the run is not known to
# refuse its start, first those on which it runs.
choose() {
  local node wanted=${#present[@]} others kept=()
  while [[ " ${refused[*]-} " == *" $wanted "* ]]; do wanted=$((wanted - 1)); done
  for node in ${present[@]+"${present[@]}"}; do
    [[ " ${members[*]-} " != *" $node "* ]] || kept+=("$node")
  done
  kept=(${kept[@]+"${kept[@]:0:wanted}"})
  others=$((wanted - ${#kept[@]}))
  chosen=()
  for node in ${present[@]+"${present[@]}"}; do
    if [[ " ${kept[*]-} " == *" $node "* ]]; then
      chosen+=("$node")
    elif [[ " ${members[*]-} " != *" $node "* && $others -gt 0 ]]; then
      chosen+=("$node") others=$((others - 1))
    fi
  done
}

# Starts main.py on the slices of `members`, which are the slices 0, 1, ... of this start. One that
# runs on other slices, by an earlier start of this script, is ended before.
start_members() {
  local all=("${members[@]}") given=(${environment[@]+"${environment[@]}"}) i address=ADDRESS
  everywhere "cd $folder; if $alive && [ \"\$(cat .slices)\" != '${all[*]}' ]; then\
 $(ending "$save_seconds"); fi; echo '${all[*]}' > .slices" || true
  local find=(gcloud compute tpus tpu-vm describe "${all[0]}" "${where[@]}"
    --format='value(networkEndpoints[0].ipAddress)')
  if [[ -n $dry ]]; then do_ "${find[@]}"; else address=$(do_ "${find[@]}") || return 0; fi
  for i in "${!all[@]}"; do
    local members=("${all[i]}") environment=(${given[@]+"${given[@]}"})
    [[ ${#all[@]} -eq 1 ]] || environment+=("MEGASCALE_COORDINATOR_ADDRESS=$address:$megascale_port"
      "MEGASCALE_PORT=$megascale_port" "MEGASCALE_NUM_SLICES=${#all[@]}" "MEGASCALE_SLICE_ID=$i")
    start || true # a slice that is lost now is found by `look`
  done
}

# Prints the commands that end main.py on a worker: by SIGTERM, on which it saves, and by SIGKILL
# after so many seconds.
ending() {
  echo "kill -TERM -- \"-\$(cat .pid)\"; for i in \$(seq $1); do $alive || break; sleep 1; done;\
 if $alive; then kill -KILL -- \"-\$(cat .pid)\"; echo $lost > .status; fi"
}

# Ends main.py on slices, after at most so many seconds.
end_on() {
  local members=("${@:2}")
  everywhere "cd $folder; if $alive; then $(ending "$1"); fi" || true
}

# Waits for a run on some slices. Sets `outcome` to its exit status, or to `changed` if a slice was
# lost or is back; then main.py has been ended.
watch_members() {
  outcome="" stopped=""
  while [[ -z $outcome ]]; do
    sleep "$poll"
    look
    choose
    if [[ "${chosen[*]-}" != "${members[*]}" ]]; then
      say "slices ${members[*]} -> ${chosen[*]-none}"
      local node left=()
      for node in "${members[@]}"; do
        [[ " ${present[*]-} " != *" $node "* ]] || left+=("$node")
      done
      if [[ ${#left[@]} -gt 0 ]]; then
        local seconds=$lost_seconds
        [[ ${#left[@]} -lt ${#members[@]} ]] || seconds=$save_seconds
        end_on "$seconds" "${left[@]}"
      fi
      outcome=changed
    else
      judge
    fi
  done
}

# `run` for slices that come and go.
run_elastic() {
  local failures=0 stops=0 progress=0 stopped="" outcome present=() chosen=() refused=()
  while true; do
    look
    choose
    members=(${chosen[@]+"${chosen[@]}"})
    if [[ ${#members[@]} -eq 0 ]]; then
      sleep "$poll"
      continue
    fi
    say "running on ${members[*]}"
    if ! everywhere "test -e $folder/.installed" > /dev/null 2>&1; then
      setup || { sleep "$poll"; continue; }
    fi
    start_members
    watch_members
    case $outcome in
      0)
        say "the run has ended"
        return 0
        ;;
      changed) failures=0 stops=0 progress=0 ;;
      "$preempted")
        failures=0
        count_stop
        ;;
      "$bad_input" | "$unfit_devices")
        lines=3 logs
        [[ $outcome -eq $unfit_devices && ${#members[@]} -lt $slices ]] || return "$outcome"
        refuse
        continue
        ;;
      *)
        logs || true
        count_failure "$outcome"
        ;;
    esac
    say "restarting after ${outcome/changed/a change of the slices}"
  done
}

# Notes that the run does not start on so many slices, and prints what is tried next.
refuse() {
  local next="waiting for another slice"
  refused+=("${#members[@]}")
  choose
  [[ ${#chosen[@]} -eq 0 ]] || next="trying ${#chosen[@]}"
  say "the run does not start on ${#members[@]} of $slices slices, for the reason above: $next"
}

# Prints the commands of `run_elastic`: of the first start, and when the last slice is lost and back.
rehearse_elastic() {
  local all rest
  mapfile -t all < <(nodes)
  rest=("${all[@]:0:${#all[@]}-1}")
  each_slice ask
  setup
  members=("${all[@]}")
  start_members
  answers
  echo "# when ${all[-1]} is lost:"
  of_slice "${all[-1]}" delete
  of_slice "${all[-1]}" ask
  members=("${rest[@]}")
  end_on "$lost_seconds" "${rest[@]}"
  start_members
  if [[ ${#rest[@]} -gt 1 ]]; then
    echo "# if main.py then ends with status $unfit_devices:"
    members=("${rest[@]:0:${#rest[@]}-1}")
    start_members
  fi
  echo "# when ${all[-1]} is back:"
  end_on "$save_seconds" "${members[@]}"
  members=("${all[@]}")
  setup
  start_members
}

say() {
  echo "$(date -u +%H:%M:%S) $*" >&2
}

run() {
  if [[ -n $elastic ]]; then
    if [[ -n $dry ]]; then rehearse_elastic; else run_elastic; fi
    return
  fi
  local failures=0 status now stops=0 progress=0 stopped
  while true; do
    state
    case $now in
      ACTIVE) ;;
      ABSENT | SUSPENDING | SUSPENDED | FAILED)
        if [[ $now == FAILED ]]; then
          failures=$((failures + 1))
          [[ $failures -le $retries ]] || fail "$name is FAILED, $failures times in a row: see launch_tpu.sh status."
        fi
        [[ $now == ABSENT ]] || delete
        ask
        continue
        ;;
      *) # requested, being deleted, or unknown
        [[ $now == UNREACHABLE ]] || say "$name is $now"
        sleep "$poll"
        continue
        ;;
    esac
    if [[ -n $dry ]] || ! everywhere "test -e $folder/.installed" > /dev/null 2>&1; then setup; fi
    start
    status=0
    watch || status=$?
    case $status in
      0)
        say "the run has ended"
        return 0
        ;;
      "$preempted")
        failures=0
        count_stop
        ;;
      "$bad_input" | "$unfit_devices")
        lines=3 logs
        return "$status"
        ;;
      *)
        logs
        count_failure "$status"
        ;;
    esac
    say "restarting after status $status"
  done
}

status() {
  if [[ -n $elastic ]]; then each_slice queue describe; else queue describe; fi
  answers
  everywhere "tail -n 1 $folder/run.log"
}

logs() {
  everywhere "tail -n $lines $folder/run.log"
}

# Stops the run, which has five minutes to save on SIGTERM, and deletes its slices.
stop() {
  everywhere "cd $folder && kill -TERM -- \"-\$(cat .pid)\";\
 for i in \$(seq 300); do $alive || break; sleep 1; done" || true
  delete
}

main() {
  parse "$@"
  case $command in
    -h | --help | help) usage ;;
    create | setup | run | status | logs | stop)
      check
      "$command"
      ;;
    *) fail "$(printable "$command") is not a command: give create, setup, run, status, logs or stop." ;;
  esac
}

main "$@"
