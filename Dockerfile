# A machine ready for autockpt: PyTorch with CUDA, Jupyter Lab on 8888, SSH on 2222.
# `make dev-start` builds and starts it by compose.yaml; docs/environment.md describes it.
FROM pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Versions come from the image's own release of Ubuntu, which changes only for security.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates curl git make openssh-server tini \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*

# The user that all runs as. Give your own number, so that files in mounted folders are yours.
ARG USER_ID=1000
RUN if getent passwd "${USER_ID}" >/dev/null; then \
      userdel --remove "$(getent passwd "${USER_ID}" | cut -d: -f1)"; fi \
 && useradd --create-home --uid "${USER_ID}" --shell /bin/bash dev \
 && mkdir -p /home/dev/autockpt /home/dev/.cache /home/dev/.ssh-server /checkpoints \
 && chown -R dev:dev /home/dev /checkpoints

ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_NO_CACHE_DIR=1 \
    PATH=/home/dev/.local/bin:$PATH

# The image's torch stays: its version is handed to pip as a constraint.
COPY --chown=dev:dev . /home/dev/autockpt
WORKDIR /home/dev/autockpt
USER ${USER_ID}
RUN python3 -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' \
      > /tmp/constraints.txt \
 && python3 -m pip install --user -c /tmp/constraints.txt -e '.[experiments,plot,notebook]' \
 && rm /tmp/constraints.txt

EXPOSE 8888 2222
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8888/login"]

ENTRYPOINT ["tini", "--", "/home/dev/autockpt/.devcontainer/start.sh"]
