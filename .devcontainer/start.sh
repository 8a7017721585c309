#!/usr/bin/env bash
# Starts sshd, if there is a key to log in with, and Jupyter Lab. Neither needs root.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
state="${DEV_STATE:-$HOME/.ssh-server}"
: "${JUPYTER_TOKEN:?JUPYTER_TOKEN must be set: without a token, anyone who reaches the port runs code}"

mkdir -p "$state" && chmod 700 "$state"
if [ -n "${SSH_AUTHORIZED_KEYS:-}" ]; then
  printf '%s\n' "$SSH_AUTHORIZED_KEYS" > "$state/authorized_keys"
fi
if [ -s "$state/authorized_keys" ]; then
  chmod 600 "$state/authorized_keys"
  if [ ! -f "$state/host_key" ]; then
    ssh-keygen -q -t ed25519 -N '' -f "$state/host_key"
  fi
  /usr/sbin/sshd -f "$here/sshd_config" -p "${SSH_PORT:-2222}" -h "$state/host_key" \
    -o "AuthorizedKeysFile=$state/authorized_keys" -o "PidFile=$state/sshd.pid" \
    -E "$state/sshd.log"
else
  echo "No SSH: set SSH_AUTHORIZED_KEYS to a public key." >&2
fi
export JUPYTER_TOKEN
exec "${PYTHON:-python3}" -m jupyterlab --config="$here/jupyter_server_config.py" \
  --port="${JUPYTER_PORT:-8888}"
