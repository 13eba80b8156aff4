"""Writes tests/golden/snapshot/session_v1.bin: an exported session, not by the server itself.

The layout is that of server/session/snapshot.h. Later versions of the server must go on reading
this file, so it is only written again when the format was wrong. Needs the package `cryptography`,
which nothing else here does.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = bytes(range(32))
NONCE = bytes(range(100, 112))
FED, PENDING, TAIL = 1000, 17, (4, 5, 17)


def row() -> bytes:
    """A state row of 256 bytes: the position, and a pattern."""
    return struct.pack("<q", FED) + bytes(i * 7 % 256 for i in range(248))


def snapshot() -> bytes:
    """The whole blob."""
    head = b"GMASNAP\0" + struct.pack("<II", 1, 1) + bytes.fromhex("1f" * 32)
    head += hashlib.sha256(b"alice").digest()
    head += struct.pack("<IIQqqQ", 0, 0, 0, FED + 1, 1785200000, len(row())) + NONCE
    body = struct.pack("<qqiHH16i", 900, FED, PENDING, 1, len(TAIL), *TAIL, *[0] * 13) + row()
    return head + AESGCM(KEY).encrypt(NONCE, body, head)


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent / "snapshot"
    folder.mkdir(exist_ok=True)
    (folder / "session_v1.bin").write_bytes(snapshot())
