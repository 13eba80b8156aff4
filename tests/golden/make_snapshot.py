"""Writes tests/golden/snapshot: sealed sessions and journal records, not by the server itself.

The layouts are those of server/session/snapshot.h, snapshot_body.h and journal_record.h. Later
versions of the server must go on reading these files, so one is only written again when its format
was wrong, and a new version gets files of its own. Needs the package `cryptography`, which nothing
else here does.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = bytes(range(32))
NONCE = bytes(range(100, 112))
FINGERPRINT = bytes.fromhex("1f" * 32)
OWNER = hashlib.sha256(b"alice").digest()
ID = bytes.fromhex("00112233445566778899aabbccddeeff")
FED, PENDING, TAIL = 1000, 17, (4, 5, 17)
NOTHING = 2**63 - 1


def row(fed: int) -> bytes:
    """A state row of 256 bytes: the position, and a pattern."""
    return struct.pack("<q", fed) + bytes(i * 7 % 256 for i in range(248))


def bfloat16(data: bytes) -> bytes:
    """The row with 128 bytes of position and masses as they are, then floats rounded to even."""
    rounded = []
    for (bits,) in struct.iter_unpack("<I", data[128:]):
        if bits & 0x7FFFFFFF > 0x7F800000:
            rounded.append((bits | 0x400000) >> 16)
        else:
            rounded.append((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF)
    return data[:128] + struct.pack(f"<{len(rounded)}H", *rounded)


def head(version: int, encoding: int, epoch: int) -> bytes:
    """What the headers of all versions begin with."""
    data = b"GMASNAP\0" + struct.pack("<II", version, 1) + FINGERPRINT + OWNER
    return data + struct.pack("<IIQqqQ", 0, encoding, epoch, FED + 1, 1785200000, 256)


def snapshot_v1() -> bytes:
    """An exported session of version 1."""
    clear = head(1, 0, 0) + NONCE
    body = struct.pack("<qqiHH16i", 900, FED, PENDING, 1, len(TAIL), *TAIL, *[0] * 13) + row(FED)
    return clear + AESGCM(KEY).encrypt(NONCE, body, clear)


def text(data: bytes) -> bytes:
    """A string of the byte codec."""
    return struct.pack("<I", len(data)) + data


def tokens(ids: Iterable[int]) -> bytes:
    """A list of int32."""
    ids = tuple(ids)
    return struct.pack(f"<I{len(ids)}i", len(ids), *ids)


def point(fed: int, pending: int | None, answer_open: bool, tail: Iterable[int]) -> bytes:
    """A SessionPoint."""
    has = b"\0" if pending is None else b"\1" + struct.pack("<i", pending)
    return struct.pack("<q", fed) + has + struct.pack("<?", answer_open) + tokens(tail)


def token_log() -> bytes:
    """Of positions 900 to 1000, in two turns."""
    ids = [i * 3 % 50 for i in range(100)] + [PENDING]
    turns = struct.pack("<q??q", 910, True, True, 950) + tokens([1, 2])
    turns += struct.pack("<q??q", 990, True, False, NOTHING) + tokens([3])
    return struct.pack("<qq?", 100, 900, False) + tokens(ids) + struct.pack("<I", 2) + turns


def snapshot_v2(stored: bool, encode: Callable[[bytes], bytes], encoding: int) -> bytes:
    """A store's session with its past, or an exported one."""
    body = struct.pack("<q", 900) + point(FED, PENDING, True, TAIL)
    rows = encode(row(FED))
    if stored:
        body += struct.pack("<q", 77) + text(b"key-1") + struct.pack("<?q", True, 5)
        body += text(token_log()) + struct.pack("<I", 2)
        body += struct.pack("<B", 1) + text(b"3") + point(950, 1, False, ()) + struct.pack("<q", 40)
        body += struct.pack("<B", 2) + text(b"here") + point(990, None, True, (9,))
        body += struct.pack("<qq", 990, 3)
        rows += encode(row(950)) + encode(row(990))
    else:
        body += struct.pack("<q", 0) + text(b"") + struct.pack("<?q", False, 0) + text(b"")
        body += struct.pack("<Iq", 0, 0)
    clear = head(2, encoding, 7 if stored else 0)
    clear += struct.pack("<IIQ", stored, 2 if stored else 0, len(body)) + NONCE
    associated = clear + (ID if stored else b"")
    return clear + AESGCM(KEY).encrypt(NONCE, body + rows, associated)


def record(number: int, body: bytes) -> bytes:
    """A journal record."""
    key = hmac.digest(KEY, b"gma journal" + OWNER + ID, "sha256")
    clear = b"GMAJRNL\0" + struct.pack("<IIq", 1, 0, number) + NONCE
    return clear + AESGCM(key).encrypt(NONCE, body, clear + FINGERPRINT)


def turn_begin() -> bytes:
    """A turn with every parameter set."""
    data = struct.pack("<Bq", 0, 78) + text(b"key-2") + struct.pack("<Bq", 1, 1001)
    data += tokens([1, 2, 3]) + b"\1"
    data += struct.pack("<didddddd", 0.7, 40, 0.9, 0.05, 0.95, 1.1, 0.25, -0.5)
    data += struct.pack("<Iifif", 2, 4, 1.5, 5, -100.0) + tokens([6, 7]) + tokens([8, 9, 10])
    data += struct.pack("<Qi", 2**64 - 3, 5)
    data += struct.pack("<qq", 256, 2) + tokens([11]) + struct.pack("<I", 2)
    return data + text(b"\n\n") + text("Ünd".encode()) + b"\1"


if __name__ == "__main__":
    files = {
        "session_v1.bin": snapshot_v1(),
        "session_v2_exported.bin": snapshot_v2(False, bytes, 0),
        "session_v2.bin": snapshot_v2(True, bytes, 0),
        "session_v2_bfloat16.bin": snapshot_v2(True, bfloat16, 1),
        "record_v1_turn_begin.bin": record(5, turn_begin()),
        "record_v1_interjection.bin": record(6, struct.pack("<Bq", 1, 9) + tokens([12, 13])),
        "record_v1_turn_end.bin": record(
            7, struct.pack("<BB", 2, 4) + tokens([14, 15]) + struct.pack("<?qq", False, 1008, 81)
        ),
    }
    folder = Path(__file__).resolve().parent / "snapshot"
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
