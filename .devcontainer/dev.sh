#!/usr/bin/env bash
# The ready environment, behind `make dev-start`, `dev-stop` and `dev-shell`: in Docker if there is
# an engine with compose, else in .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
state=.dev
python="$PWD/.venv/bin/python"

has_engine() { docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; }

settings() {
  # Compose reads .env; the token stays the same until the file is deleted.
  umask 077
  if [ ! -f .env ]; then
    {
      echo "USER_ID=$(id -u)"
      echo "JUPYTER_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(24))')"
      for key in "$HOME"/.ssh/id_ed25519.pub "$HOME"/.ssh/id_rsa.pub; do
        if [ -f "$key" ]; then echo "SSH_AUTHORIZED_KEYS='$(cat "$key")'"; break; fi
      done
    } > .env
  fi
}

token() { sed -n 's/^JUPYTER_TOKEN=//p' .env; }

is_running() { [ -f "$state/jupyter.pid" ] && kill -0 "$(cat "$state/jupyter.pid")" 2>/dev/null; }

start() {
  settings
  if has_engine; then
    docker compose up --build --detach
    echo "SSH: ssh -p 2222 dev@127.0.0.1 (with the key of SSH_AUTHORIZED_KEYS in .env)"
  elif is_running; then
    echo "Jupyter Lab is running already."
  else
    echo "No Docker engine with compose here: starting Jupyter Lab from .venv, without SSH."
    mkdir -p "$state"
    JUPYTER_HOST=127.0.0.1 JUPYTER_ALLOW_ROOT=1 JUPYTER_TOKEN="$(token)" nohup "$python" -m jupyterlab \
      --config=.devcontainer/jupyter_server_config.py --port="${JUPYTER_PORT:-8888}" \
      > "$state/jupyter.log" 2>&1 &
    echo $! > "$state/jupyter.pid"
    for _ in $(seq 60); do
      if curl --fail --silent "http://127.0.0.1:${JUPYTER_PORT:-8888}/login" >/dev/null; then break; fi
      if ! is_running; then
        echo "Jupyter Lab did not start; the end of $state/jupyter.log:" >&2
        tail -5 "$state/jupyter.log" >&2
        exit 1
      fi
      sleep 1
    done
  fi
  echo "Jupyter Lab: http://127.0.0.1:${JUPYTER_PORT:-8888}/lab?token=$(token)"
}

stop() {
  if has_engine; then
    settings
    docker compose down
  elif is_running; then
    kill "$(cat "$state/jupyter.pid")"
    rm -f "$state/jupyter.pid"
    echo "Jupyter Lab has stopped."
  else
    echo "Nothing is running."
  fi
}

shell() {
  if has_engine; then
    docker compose exec dev bash
  else
    PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv" exec "${SHELL:-/bin/bash}"
  fi
}

case "${1:-}" in
  start | stop | shell | settings) "$1" ;;
  *) echo "usage: $0 start|stop|shell|settings" >&2; exit 2 ;;
esac
