"""Certificates for tests, made by the openssl command; skip where there is none (NEEDS_OPENSSL)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NEEDS_OPENSSL = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make certificates"
)
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_authority(folder: Path, name: str = "ca") -> None:
    """NAME.pem and NAME.key of an authority."""
    openssl(
        folder,
        "req",
        "-x509",
        *_NEW_KEY,
        "-nodes",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.pem",
        "-subj",
        f"/CN={name}",
    )


def sign(folder: Path, name: str, subject: str, authority: str = "ca") -> None:
    """NAME.pem and NAME.key, signed by an authority of this folder, for an alternative name like `IP:127.0.0.1`."""
    (folder / f"{name}.ext").write_text(f"subjectAltName={subject}\n")
    openssl(
        folder,
        "req",
        "-new",
        *_NEW_KEY,
        "-nodes",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.csr",
        "-subj",
        f"/CN={name}",
    )
    openssl(
        folder,
        *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key"),
        *("-CAcreateserial", "-extfile", f"{name}.ext", "-days", "2", "-out", f"{name}.pem"),
    )


def openssl(folder: Path, *arguments: str) -> None:
    """Run it in this folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
