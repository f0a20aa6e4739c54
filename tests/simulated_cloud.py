"""A simulated cloud for `launch_tpu.sh`: scripts in place of gcloud, python3 and sleep."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "launch_tpu.sh"
WHERE = ("--name=xkd", "--zone=us-west4-a")
TYPE = "--type=v5litepod-16"
MAIN = ("--", "--config=configs/k400.py", "--workdir=/mnt/a run")

# Replaces gcloud: the queued resource is a file, a worker is a folder in which commands run.
GCLOUD = r"""#!/usr/bin/env bash
set -u
cd "$CLOUD"
echo "$*" >> calls
node="" state=state
if [[ -e elastic ]]; then # each slice is a resource by itself
  for word in "$@"; do [[ $word =~ ^(xkd-[0-9])(:|$) ]] && state=state-${BASH_REMATCH[1]}; done
fi
for word in "$@"; do
  case $word in --command=*) command=${word#--command=} ;; esac
done
case "$*" in
  *"queued-resources create"*)
    echo ACTIVE > "$state"
    [[ ! -e lost ]] || echo CREATING > "$state"
    [[ ! -s outcomes ]] || { head -n 1 outcomes > state; sed -i 1d outcomes; }
    ;;
  *"queued-resources delete"*)
    rm -rf "$state" "${5:-none}"
    [[ -e elastic ]] || rm -rf xkd-*
    ;;
  *"tpu-vm describe"*) echo 127.0.0.1 ;;
  *"queued-resources describe"*)
    [[ -s answers ]] && { sed -i 1d answers; cat state; exit; }
    [[ ! -s silence ]] || { sed -i 1d silence; echo "connection refused" >&2; exit 1; }
    cat "$state" 2> /dev/null || { echo "ERROR: NOT_FOUND: Resource xkd" >&2; exit 1; }
    case $(cat "$state") in WAITING* | PROVISIONING) echo ACTIVE > state ;; esac
    ;;
  *"tpu-vm ssh"* | *"tpu-vm scp"*)
    [[ -e $state ]] || exit 255
    [[ ! -e elastic || $(cat "$state") == ACTIVE ]] || exit 255
    for word in "$@"; do [[ $word =~ ^(xkd(-[0-9])?)(:|$) ]] && node=${BASH_REMATCH[1]}; done
    for worker in 0 1; do
      mkdir -p "$node/$worker"
      case "$*" in
        *scp*) cp "$5" "$node/$worker/xkd_jax.tar.gz" ;;
        *) (cd "$node/$worker" && bash -c "$command") || exit 1 ;;
      esac
    done
    ;;
esac
"""

# Replaces a worker's Python: installs nothing, and ends as set by the test.
PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  *"uv venv"*) mkdir -p .venv/bin && cp "$(command -v python3)" .venv/bin/python ;;
  *main.py*)
    echo "run $*"
    printf x >> ../starts
    exec bash "$CLOUD/main" "$(wc -c < ../starts)"
    ;;
esac
"""

# Replaces sleep: a fifth of the time.
SLEEP = """#!/usr/bin/env bash
exec /bin/sleep "$(awk "BEGIN { print $1 / 5 }")"
"""


def calls(cloud, verb):
    return [line for line in (cloud.path / "calls").read_text().splitlines() if verb in line]


def dry(*arguments):
    found = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()
