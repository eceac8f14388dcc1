"""What a visitor gets from a gateway's operator, as docs/PROTOCOL.md says."""

import base64
import binascii
import io
import struct
from dataclasses import dataclass

import sealed


@dataclass
class Invite:
    expiry: int
    profile: bytes
    code: bytes
    fingerprint: bytes
    port: int
    tcp: bool
    known: bool
    one_way: bool
    any_source: bool
    door: bytes
    gateway: str
    hosts: list

    @classmethod
    def read(cls, line):
        prefix = "doorward-invite:"
        if not line.startswith(prefix):
            raise sealed.ProtocolError(f"an invite begins with {prefix!r}: copy the whole line")
        text = line[len(prefix):].strip()
        head = struct.Struct(">BI16s16s32sHB")
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            if raw[:1] != b"\x01":
                raise sealed.ProtocolError(f"the invite is of version {raw[0]}, and this reads version 1")
            _, expiry, profile, code, fingerprint, port, flags = head.unpack_from(raw)
            rest = io.BytesIO(raw[head.size:])
            door, gateway = read_name(rest), read_name(rest)
            hosts = [read_name(rest) for _ in range(rest.read(1)[0])]
            if rest.read(1) or flags > 15 or flags & 12 == 8:
                raise IndexError
        except (binascii.Error, struct.error, IndexError, UnicodeDecodeError):
            raise sealed.ProtocolError("the invite is not whole, or something follows it: copy the line again") from None
        return cls(expiry, profile, code, fingerprint, port, bool(flags & 1), bool(flags & 2),
                   bool(flags & 4), bool(flags & 8), door.encode(), gateway, hosts)


def read_name(stream):
    n = stream.read(1)[0]
    name = stream.read(n)
    if len(name) != n:
        raise IndexError
    return name.decode()
