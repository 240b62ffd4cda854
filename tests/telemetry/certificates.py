"""Certificates for tests, made by the command `openssl`."""

import os
import ssl
import subprocess
from pathlib import Path
from shutil import which

import pytest

_CONFIG = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
subjectAltName = IP:127.0.0.1
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Certificates:
    """An authority, a server and a client it signed, and a stranger it did not."""

    def __init__(self, folder: Path) -> None:
        if which("openssl") is None and "CI" not in os.environ:
            pytest.skip("openssl is not installed")
        self._folder = folder
        (folder / "openssl.cnf").write_text(_CONFIG)
        for name in ("ca", "stranger"):
            self._request(name)
            self._sign(name, "authority", "-signkey", f"{name}.key")
        for name in ("server", "client"):
            self._request(name)
            self._sign(name, name, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        self._openssl("ec", "-in", "server.key", "-out", "encrypted.key", "-aes256",
                      "-passout", "pass:secret")  # fmt: skip
        hashed = self._openssl("x509", "-in", "ca.pem", "-noout", "-subject_hash").strip()
        (folder / "authorities").mkdir()
        (folder / "authorities" / f"{hashed}.0").write_bytes((folder / "ca.pem").read_bytes())

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def client_context(self, certificate: str | None = None) -> ssl.SSLContext:
        """What a client needs that trusts the authority, and may have a certificate."""
        context = ssl.create_default_context(cafile=self.path("ca.pem"))
        if certificate is not None:
            context.load_cert_chain(
                self.path(f"{certificate}.pem"), self.path(f"{certificate}.key")
            )
        return context

    def _request(self, name: str) -> None:
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        self._openssl("req", "-new", "-config", "openssl.cnf", "-key", f"{name}.key",
                      "-subj", f"/CN={name}", "-out", f"{name}.csr")  # fmt: skip

    def _sign(self, name: str, extensions: str, *by: str) -> None:
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-days", "2", "-out", f"{name}.pem",
                      "-extfile", "openssl.cnf", "-extensions", extensions, *by)  # fmt: skip

    def _openssl(self, *args: str) -> str:
        done = subprocess.run(
            ["openssl", *args], cwd=self._folder, capture_output=True, text=True, check=True
        )
        return done.stdout
