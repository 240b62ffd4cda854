"""What a server needs to speak TLS, made from files; and what it asks of its clients."""

from __future__ import annotations

import os
import ssl
from typing import NoReturn

StrPath = str | os.PathLike[str]


def server_context(
    certfile: StrPath | None,
    keyfile: StrPath | None,
    client_cafile: StrPath | None = None,
    client_capath: StrPath | None = None,
    client_auth_required: bool = False,
) -> ssl.SSLContext | None:
    """Return what a server of TLS 1.2 and newer needs; None if nothing of it is asked for.

    Raises:
        ValueError: the arguments contradict each other, or the key is encrypted.
        OSError: a file cannot be loaded.
    """
    authorities = client_cafile is not None or client_capath is not None
    _check(certfile, keyfile, authorities, client_auth_required)
    if certfile is None or keyfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_certificate(context, certfile, keyfile)
    if client_auth_required:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, client_cafile, client_capath)
    return context


def _check(
    certfile: StrPath | None, keyfile: StrPath | None, authorities: bool, required: bool
) -> None:
    """Raise for what would serve less safely than the caller believes."""
    if (certfile is None) != (keyfile is None):
        given, missing = ("certfile", "keyfile") if keyfile is None else ("keyfile", "certfile")
        raise ValueError(f"{given} needs {missing}: HTTPS takes a certificate and its key")
    if certfile is None and (authorities or required):
        raise ValueError(
            "client certificates need HTTPS: give certfile and keyfile too, or leave out "
            "client_cafile, client_capath and client_auth_required"
        )
    if authorities and not required:
        raise ValueError(
            "client_cafile and client_capath would not be used, for no client is asked for a "
            "certificate: set client_auth_required=True, or leave them out"
        )


def _load_certificate(context: ssl.SSLContext, certfile: StrPath, keyfile: StrPath) -> None:
    try:
        context.load_cert_chain(certfile, keyfile, _refuse_to_ask)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"cannot load certfile {_path(certfile)} with keyfile {_path(keyfile)}: "
            f"{error.strerror}. They must be a certificate and its own key, in PEM",
        ) from None


def _path(path: StrPath) -> str:
    """Return a path for a message, unless somebody gave what belongs into the file."""
    text = os.fspath(path)
    return repr(text) if text.isprintable() else "that is no path"


def _refuse_to_ask() -> NoReturn:
    """Stand in for OpenSSL's own way, which is to wait for somebody at the terminal."""
    raise ValueError("keyfile is encrypted: give one without a passphrase, readable by this user")


def _load_authorities(
    context: ssl.SSLContext, cafile: StrPath | None, capath: StrPath | None
) -> None:
    if cafile is None and capath is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    try:
        if capath is not None:
            os.scandir(capath).close()  # OpenSSL does not mind if it is not there
        context.load_verify_locations(cafile, capath)
    except OSError as error:
        names = [os.fspath(path) for path in (cafile, capath) if path is not None]
        raise type(error)(
            error.errno,
            f"cannot load the authorities of clients from {' and '.join(map(repr, names))}: "
            f"{error.strerror}. Certificates must be in PEM",
        ) from None
