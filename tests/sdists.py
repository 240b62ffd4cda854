"""Source distributions of other libraries, for their own tests. They are fetched, not kept here."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".tools"


def source_of(distribution: str, package: str) -> Path:
    """Return the folder of a source distribution, of the version that is installed.

    Without the `package` itself, which is not to be imported from there. Skips the test if it
    cannot be had, or in CI fails.
    """
    installed = version(distribution)
    home = CACHE / distribution
    folder = home / f"{distribution.replace('-', '_')}-{installed}"
    if not folder.exists():
        home.mkdir(parents=True, exist_ok=True)
        _download(distribution, installed, home)
        partial = home / str(os.getpid())
        with tarfile.open(f"{folder}.tar.gz") as archive:
            archive.extractall(partial, filter="data")
        shutil.rmtree(partial / folder.name / package, ignore_errors=True)
        (partial / folder.name).rename(folder)
        partial.rmdir()
    return folder


def installed_from(lock: Path) -> Path:
    """Return a folder in which there is what a lock file names; else as `source_of`."""
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = CACHE / "site-packages" / f"{lock.parent.name}-{key}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        _pip("install", "--no-deps", "--require-hashes", "--target", partial, "-r", lock)
        partial.rename(folder)
    return folder


def _download(distribution: str, installed: str, home: Path) -> None:
    # Its hash is in the lock file, as that of the wheel.
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entry = rf"^{distribution}(?:\[[\w,]+\])?==(\S+).* \\\n((?: +--hash=\S+(?: \\)?\n)+)"
    locked = re.search(entry, lock, re.M)
    assert locked is not None, f"{distribution} is not in requirements.lock"
    if locked[1] != installed:
        pytest.skip(f"only the tests of {distribution} {locked[1]} are known by their hash")
    wanted = home / f"{os.getpid()}.txt"
    wanted.write_text(f"{distribution}=={locked[1]} \\\n{locked[2]}", encoding="utf-8")
    options = ["--no-deps", "--no-binary", ":all:", "--require-hashes"]
    try:
        _pip("download", *options, "-d", home, "-r", wanted)
    finally:
        wanted.unlink()


def _pip(verb: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    if done.returncode and "CI" not in os.environ:
        pytest.skip(f"their tests cannot be had: {done.stderr.splitlines()[-1]}")
    assert not done.returncode, done.stderr
