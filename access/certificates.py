"""Certificates for a set-up of one's own: an authority, and what it signs for the broker and for devices.

Keys are elliptic (P-256): small, and a handshake costs the broker a tenth of what RSA does. PEM text in and out; no I/O
here.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # as long as browsers allow; `wattline secure` makes a new one in its last month
RENEW_DAYS = 30
# Clocks of devices are not exact, and a certificate is used right after it was made.
BACKDATED = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM text."""

    certificate: str
    key: str


def make_authority(name: str) -> Certificate:
    """An authority that signs for itself; it may sign servers and clients, and no other authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_named(name), _named(name), key, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return _pem(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Certificate,
    name: str,
    *,
    hosts: Sequence[str] = (),
    days: float = SERVER_DAYS,
) -> Certificate:
    """For a server under these host names and addresses, or, without any, for a client of this name.

    `days` < 0: one that has expired already.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    signer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signing_key = _load_key(authority.key)
    builder = _builder(_named(name), signer.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(), critical=True)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    builder = builder.add_extension(signed_by, critical=False)
    return _pem(builder.sign(signing_key, hashes.SHA256()), key)


def revoked(authority: Certificate, certificates: Sequence[str], *, days: float = AUTHORITY_DAYS) -> str:
    """The list of an authority's certificates that are good no more, as PEM text."""
    signer = x509.load_pem_x509_certificate(authority.certificate.encode())
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(signer.subject)
    builder = builder.last_update(now - BACKDATED).next_update(now + dt.timedelta(days=days))
    for text in certificates:
        number = x509.load_pem_x509_certificate(text.encode()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now - BACKDATED).build()
        builder = builder.add_revoked_certificate(entry)
    signed = builder.sign(_load_key(authority.key), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def is_good_for(certificate: str, hosts: Sequence[str]) -> bool:
    """Whether a server's certificate names all these hosts and lasts for another month. Raises ValueError for none."""
    found = x509.load_pem_x509_certificate(certificate.encode())
    left = found.not_valid_after_utc - dt.datetime.now(dt.UTC)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return left > dt.timedelta(days=RENEW_DAYS) and all(_host(host) in names for host in hosts)


def hosts_of(certificate: str) -> list[str]:
    """The names and addresses in a server's certificate. Raises ValueError for none."""
    found = x509.load_pem_x509_certificate(certificate.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    end = now + dt.timedelta(days=days)
    begin = min(now, end) - BACKDATED
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(text: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(text.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("a key of another kind than ours")
    return key


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Certificate:
    return Certificate(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
