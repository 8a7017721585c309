"""The ready environment on loopback, and what a release consists of."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import autockpt

_ROOT = Path(__file__).parent.parent
_ENVIRONMENT = _ROOT / ".devcontainer"
_SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
_IS_ROOT = os.geteuid() == 0


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the process ended before it listened"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    pytest.fail(f"nothing listens on port {port}")


def _ssh(port: int, key: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "ssh", "-p", str(port), "-i", str(key), "-o", "IdentitiesOnly=yes",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "BatchMode=yes", *options, f"{getpass.getuser()}@127.0.0.1", "echo it is me",
        ],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


@contextlib.contextmanager
def _sshd(tmp_path: Path, key: Path, *options: str) -> Iterator[int]:
    """Sshd by the environment's own configuration, started as `start.sh` starts it."""
    port = _free_port()
    host_key, authorized = tmp_path / "host_key", tmp_path / "authorized_keys"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)], check=True)
    authorized.write_text(key.with_suffix(".pub").read_text())
    authorized.chmod(0o600)
    if _IS_ROOT:
        Path("/run/sshd").mkdir(exist_ok=True)
    assert _SSHD is not None
    process = subprocess.Popen(
        [
            _SSHD, "-D", "-f", str(_ENVIRONMENT / "sshd_config"), "-p", str(port),
            "-h", str(host_key), "-o", f"AuthorizedKeysFile={authorized}",
            "-o", "PidFile=none", "-o", "ListenAddress=127.0.0.1", "-o", "StrictModes=no",
            *options,
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(10)


needs_ssh = pytest.mark.skipif(
    _SSHD is None or shutil.which("ssh") is None, reason="OpenSSH's server is not installed"
)


@needs_ssh
def test_ssh_takes_a_key_and_no_password(tmp_path: Path, key: Path) -> None:
    # Tests that run as root can only log in as root, which the configuration forbids.
    with _sshd(tmp_path, key, *(["-o", "PermitRootLogin=yes"] if _IS_ROOT else [])) as port:
        entered = _ssh(port, key)
        assert entered.stdout == "it is me\n", entered.stderr
        refused = _ssh(port, key, "-o", "PreferredAuthentications=password,keyboard-interactive")
        assert refused.returncode == 255
        assert "Permission denied (publickey)" in refused.stderr
        foreign = tmp_path / "foreign"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(foreign)], check=True
        )
        assert "Permission denied (publickey)" in _ssh(port, foreign).stderr


@needs_ssh
@pytest.mark.skipif(not _IS_ROOT, reason="only root can try to log in as root")
def test_ssh_refuses_root(tmp_path: Path, key: Path) -> None:
    with _sshd(tmp_path, key) as port:
        assert "Permission denied" in _ssh(port, key).stderr


def test_jupyter_asks_for_its_token(tmp_path: Path) -> None:
    port = _free_port()
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "DEV_STATE": str(tmp_path / "state"),
        "JUPYTER_ALLOW_ROOT": "1",  # tests may run as root
        "JUPYTER_HOST": "127.0.0.1",
        "JUPYTER_PORT": str(port),
        "JUPYTER_ROOT": str(tmp_path),
        "JUPYTER_TOKEN": "a-secret",
        "PYTHON": sys.executable,
    }
    environment.pop("SSH_AUTHORIZED_KEYS", None)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(_ENVIRONMENT / "start.sh")], env=environment, stdout=output, stderr=output
        )
    try:
        _wait_for(port, process)
        address = f"http://127.0.0.1:{port}/api/contents"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address)
        assert refused.value.code == 403
        refused.value.close()
        with urllib.request.urlopen(f"{address}?token=a-secret") as answer:
            assert json.load(answer)["type"] == "directory"
    finally:
        process.terminate()
        process.wait(20)
    assert "No SSH" in log.read_text()


def test_the_environment_does_not_start_without_a_token(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    started = subprocess.run(
        [str(_ENVIRONMENT / "start.sh")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert started.returncode != 0
    assert "JUPYTER_TOKEN must be set" in started.stderr


def test_compose_keeps_to_this_machine() -> None:
    service = yaml.safe_load((_ROOT / "compose.yaml").read_text())["services"]["dev"]
    assert service["ports"] == ["127.0.0.1:8888:8888", "127.0.0.1:2222:2222"]
    reserved = service["deploy"]["resources"]["reservations"]["devices"][0]
    assert reserved["capabilities"] == ["gpu"]
    container = json.loads((_ENVIRONMENT / "devcontainer.json").read_text())
    assert (_ENVIRONMENT / container["dockerComposeFile"]).is_file()
    assert container["service"] == "dev"
    steps = (_ROOT / "Dockerfile").read_text()
    assert re.search(r"^FROM pytorch/pytorch:[\d.]+-cuda[\d.]+-cudnn\d-runtime$", steps, re.M)


def test_the_settings_have_a_token_that_stays(tmp_path: Path) -> None:
    (tmp_path / ".devcontainer").mkdir()
    shutil.copy(_ENVIRONMENT / "dev.sh", tmp_path / ".devcontainer")
    texts = []
    for _ in range(2):
        subprocess.run(
            [str(tmp_path / ".devcontainer" / "dev.sh"), "settings"],
            check=True, env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        texts.append((tmp_path / ".env").read_text())
    assert texts[0] == texts[1]
    assert re.search(r"^JUPYTER_TOKEN=[0-9a-f]{48}$", texts[0], re.M)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_versions_come_from_one_place() -> None:
    citation = yaml.safe_load((_ROOT / "CITATION.cff").read_text())
    assert citation["version"] == autockpt.__version__
    heading = re.search(r"^## (\S+) \((.+)\)$", (_ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heading is not None
    assert heading[1] == autockpt.__version__


def test_the_wheel_has_all_that_runs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        check=True, cwd=_ROOT, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("autockpt", "solvers/autockpt_solvers"):
        folder = _ROOT / package
        ours = {
            f"{folder.name}/{file.relative_to(folder).as_posix()}"
            for file in folder.rglob("*")
            if file.is_file() and file.suffix != ".pyc" and "__pycache__" not in file.parts
        }
        assert ours <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
