"""Jupyter Lab of the ready environment; it reads its token from JUPYTER_TOKEN."""

import os

c = get_config()  # type: ignore[name-defined]  # noqa: F821

c.ServerApp.ip = os.environ.get("JUPYTER_HOST", "0.0.0.0")
c.ServerApp.open_browser = False
c.ServerApp.root_dir = os.environ.get("JUPYTER_ROOT", os.getcwd())  # noqa: PTH109
c.ServerApp.port_retries = 0
# The container has its own user; outside of it, whoever works as root does so knowingly.
c.ServerApp.allow_root = os.environ.get("JUPYTER_ALLOW_ROOT") == "1"
c.IdentityProvider.token = os.environ["JUPYTER_TOKEN"]
