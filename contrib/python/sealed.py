"""The sealed knock of doorward, version 1, from the visitor's side.

Written from docs/PROTOCOL.md alone, whose words it uses. It needs Python's
standard library and the package "cryptography" (38 or later), and speaks the
X25519 suite. Nothing here touches the network, a clock or a file: bytes go in and
bytes come out. Randomness comes from a function that is given how many bytes it
shall return.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

L = b"doorward sealed v1 "
TO_GATEWAY, TO_VISITOR = b"to gateway", b"to visitor"
HELLO, CHALLENGE, BUSY, REQUEST, ANSWER = 0x12, 0x20, 0x21, 0x30, 0x40
SINGLE, QUESTION, PART = 0x52, 0x60, 0x61

# The sizes that a datagram of each type can have, and the length of its body
# where that is fixed.
SIZES = {
    HELLO: (256,), CHALLENGE: (192,), BUSY: (64,), REQUEST: (512, 768, 1232, 2048, 4096),
    ANSWER: (192,), SINGLE: (160,), QUESTION: (768,), PART: (768,),
}
BODIES = {CHALLENGE: 176, BUSY: 32, ANSWER: 183, PART: 673}
LARGEST_UDP, LARGEST_TCP = 1232, 4096
BUNDLE, PART_LENGTH, STATE, ANSWER_LENGTH = 1248, 624, 112, 155
ZERO_NONCE = bytes(12)

OPEN, CLOSE, EXTEND = 1, 2, 3


class ProtocolError(Exception):
    """Something that a visitor has, or was sent, is not as the protocol says."""


# Primitives


def derive(secret, salt, purpose, n, context=b""):
    return HKDF(hashes.SHA256(), n, salt, L + purpose + context).derive(secret)


def digest(purpose, *parts):
    return hashlib.sha256(L + purpose + b"".join(parts)).digest()


def long(x):
    return struct.pack(">H", len(x)) + x


def string(x):
    """A string as SSH writes it (RFC 4251, section 5)."""
    return struct.pack(">I", len(x)) + x


def siphash(key, data):
    """SipHash-2-4, as a number."""
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D,
         k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x, n):
        return (x << n | x >> (64 - n)) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[2] = (v[2] + v[3]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & mask
            v[0] = (v[0] + v[3]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    whole = len(data) - len(data) % 8
    last = data[whole:].ljust(7, b"\0") + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", data[:whole] + last):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def x25519_private(raw):
    return x25519.X25519PrivateKey.from_private_bytes(raw)


def x25519_public(private):
    return private.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def x25519_shared(private, public):
    """The shared secret, or None for a public key that makes it all zeros."""
    try:
        shared = private.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return None
    return shared if any(shared) else None


# HPKE in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM
# (RFC 9180, sections 4.1 and 5.1)

KEM = b"KEM" + struct.pack(">H", 0x0020)
HPKE = b"HPKE" + struct.pack(">HHH", 0x0020, 0x0001, 0x0002)


def labeled_extract(suite, salt, label, secret):
    return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, "sha256")


def labeled_expand(suite, prk, label, info, n):
    info = struct.pack(">H", n) + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), n, info).derive(prk)


class Sender:
    """HPKE's context of a sender that seals one message."""

    def __init__(self, public, info, ephemeral):
        private = x25519_private(ephemeral)
        self.enc = x25519_public(private)
        shared = x25519_shared(private, public)
        if shared is None:
            raise ProtocolError("the gateway's X25519 key is one of a small order: its invite or bundle is no good")
        prk = labeled_extract(KEM, b"", b"eae_prk", shared)
        secret = labeled_expand(KEM, prk, b"shared_secret", self.enc + public, 32)
        context = (b"\0" + labeled_extract(HPKE, b"", b"psk_id_hash", b"")
                   + labeled_extract(HPKE, b"", b"info_hash", info))
        prk = labeled_extract(HPKE, secret, b"secret", b"")
        self._key = labeled_expand(HPKE, prk, b"key", context, 32)
        self._nonce = labeled_expand(HPKE, prk, b"base_nonce", context, 12)
        self._exporter = labeled_expand(HPKE, prk, b"exp", context, 32)

    def seal(self, aad, text):
        return AESGCM(self._key).encrypt(self._nonce, text, aad)

    def export(self, context, n):
        return labeled_expand(HPKE, self._exporter, b"sec", context, n)


# The envelope


class Envelope:
    """Puts on and takes off what hides every datagram from those without the profile secret."""

    def __init__(self, profile):
        self._keys = {d: (derive(profile, None, b"tag " + d, 16), derive(profile, None, b"mask " + d, 32))
                      for d in (TO_GATEWAY, TO_VISITOR)}

    def _mask(self, direction, salt, data):
        stream = Cipher(algorithms.AES(self._keys[direction][1]), modes.CTR(salt)).encryptor()
        return stream.update(data) + stream.finalize()

    def _tag(self, direction, masked):
        return struct.pack(">Q", siphash(self._keys[direction][0], masked[:56]))

    def wrap(self, kind, body, size, direction=TO_GATEWAY):
        rest = (bytes([kind]) + body[16:]).ljust(size - 24, b"\0")
        if size not in SIZES[kind] or len(rest) != size - 24:
            raise ProtocolError(f"a datagram of type {kind:#x} cannot have {size} bytes")
        masked = body[:16] + self._mask(direction, body[:16], rest)
        return self._tag(direction, masked) + masked

    def unwrap(self, datagram, direction=TO_VISITOR):
        """The type and the body, or None for what has to be ignored."""
        if len(datagram) < 64 or not hmac.compare_digest(datagram[:8], self._tag(direction, datagram[8:])):
            return None
        salt = datagram[8:24]
        rest = self._mask(direction, salt, datagram[24:])
        kind, body = rest[0], salt + rest[1:]
        if kind not in BODIES or len(datagram) not in SIZES[kind] or any(body[BODIES[kind]:]):
            return None
        return kind, body[:BODIES[kind]]


# The gateway's key


def fingerprint_text(fingerprint):
    return "SHA256:" + base64.b64encode(fingerprint).decode().rstrip("=")


def read_fingerprint(text):
    try:
        fingerprint = base64.b64decode(text.removeprefix("SHA256:") + "=", validate=True)
    except binascii.Error:
        fingerprint = b""
    if not text.startswith("SHA256:") or len(fingerprint) != 32:
        raise ProtocolError(f"{text!r} is no fingerprint: it is SHA256: and 43 characters of base64")
    return fingerprint


def question(envelope, fingerprint, part, random):
    body = random(16) + fingerprint + bytes([part])
    return envelope.wrap(QUESTION, body, SIZES[QUESTION][0])


def read_part(envelope, datagram, fingerprint):
    """The number and the bytes of a part of the bundle, or None."""
    kind, body = envelope.unwrap(datagram) or (None, b"")
    if kind != PART or body[16:48] != fingerprint or body[48] > 1:
        return None
    return body[48], body[49:]


def check_bundle(bundle, fingerprint):
    """The gateway's X25519 public key, from a bundle that has the fingerprint."""
    if len(bundle) != BUNDLE or not hmac.compare_digest(hashlib.sha256(bundle).digest(), fingerprint):
        raise ProtocolError(
            f"what answers sent another key than that of {fingerprint_text(fingerprint)}: "
            "somebody is in between, or has this invite, too")
    return bundle[:32]


# Whose request it is


class Key:
    """An Ed25519 key as OpenSSH keeps it."""

    def __init__(self, private):
        if not isinstance(private, ed25519.Ed25519PrivateKey):
            raise ProtocolError("the key is not an Ed25519 key: make one with ssh-keygen -t ed25519")
        self._private = private
        raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public = string(b"ssh-ed25519") + string(raw)
        self.hash = hashlib.sha256(self.public).digest()
        self.identity = b"\x01" + self.hash
        self.id = self.hash[:8]

    def raw(self, message):
        """The signature alone, as a single packet has it."""
        return self._private.sign(
            b"SSHSIG" + string(b"doorward-knock-v1") + string(b"") + string(b"sha512")
            + string(hashlib.sha512(message).digest()))

    def proof(self, message):
        return long(string(b"ssh-ed25519") + string(self.raw(message)))


class Invited(Key):
    """A key that an invite enrols."""

    def __init__(self, private, code):
        super().__init__(private)
        self.identity = b"\x05" + code + long(self.public)


class Certified(Key):
    """A key with its OpenSSH certificate."""

    def __init__(self, private, certificate):
        super().__init__(private)
        self.identity = b"\x02" + long(certificate)


class Secret:
    """A machine's secret of 32 bytes."""

    def __init__(self, secret):
        if len(secret) != 32:
            raise ProtocolError(f"a machine's secret has 32 bytes, not {len(secret)}")
        id = derive(secret, None, b"secret id", 16)
        self._mac = derive(secret, None, b"secret mac", 32)
        self.identity, self.id = b"\x03" + id, id[:8]

    def proof(self, message):
        return hmac.digest(self._mac, message, "sha256")

    def raw(self, message):
        return self.proof(message) + bytes(32)


CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Code:
    """A rescue code of 16 bytes."""

    def __init__(self, code):
        self.identity = b"\x04" + code

    @classmethod
    def read(cls, text):
        """A code as it is printed. Dashes, spaces and small letters do not matter, and O, I
        and L are the digits that they look like."""
        text = "".join(text.upper().split()).replace("-", "").translate(str.maketrans("OIL", "011"))
        number = 0
        for letter in text:
            number = number * 32 + CROCKFORD.find(letter)
        code = (number >> 12).to_bytes(17, "big")[1:] if len(text) == 28 and set(text) <= set(CROCKFORD) else b""
        if not code or number & 0xFFF != struct.unpack(">H", digest(b"check", code)[:2])[0] >> 4:
            raise ProtocolError("this is no rescue code, or it was mistyped: allowed are the 28 letters and digits on the sheet")
        return cls(code)

    def proof(self, message):
        return b""


def message(*finals):
    """What is signed for one or two handshakes."""
    return digest(b"signature", bytes([len(finals)]), *finals)


def request(action=OPEN, seconds=0, door=b"", address=None):
    """A request; address is of ipaddress, or None for the source of the datagram."""
    if len(door) > 64:
        raise ProtocolError(f"the name of a door has at most 64 bytes, not {len(door)}")
    packed = address.packed if address else b""
    return struct.pack(">BIB", action, seconds, len(door)) + door + bytes([len(packed)]) + packed


# The handshake


@dataclass
class Answer:
    status: int
    reason: int
    milliseconds: int
    address: object
    fingerprint: bytes
    ports: list = field(default_factory=list)

    @classmethod
    def read(cls, text):
        """The answer in a text, or None for what is none."""
        status, reason, ms = struct.unpack_from(">BBI", text)
        address = ipaddress.IPv6Address(text[6:22])
        end = 55 + 5 * text[54]
        ports = list(struct.iter_unpack(">BHH", text[55:end]))
        if (status not in range(1, 5) or (status == 4) != (reason != 0) or len(ports) > 8 or any(text[end:])
                or any(p not in (6, 17) or not 0 < first <= last for p, first, last in ports)):
            return None
        return cls(status, reason, ms, address.ipv4_mapped or address, text[22:54], ports)


class Handshake:
    """One handshake: hello(), then read() until it says CHALLENGE; final() for what is to
    be signed; seal(), once; and read() again for the answers."""

    def __init__(self, profile, public, fingerprint, random):
        self._envelope = Envelope(profile)
        self._info = L + b"hello" + derive(profile, fingerprint, b"info", 32)
        self._public, self._fingerprint, self._random = public, fingerprint, random
        self.transcript = self._state = self._request = self._answer_key = None
        self.answer = None

    def hello(self, cookie=bytes(8)):
        """A new hello. What was begun before is given up."""
        sender = Sender(self._public, self._info, self._random(32))
        self._private = x25519_private(self._random(32))
        sealed = sender.seal(bytes([HELLO]), x25519_public(self._private))
        self._export = sender.export(L + b"export", 32)
        self._hello = digest(b"hello", self._fingerprint, bytes([HELLO]), sender.enc, sealed)
        self.transcript = self._request = self._answer_key = None
        datagram = self._envelope.wrap(HELLO, sender.enc[:16] + cookie + sender.enc[16:] + sealed, SIZES[HELLO][0])
        self._tag = datagram[:8]
        return datagram

    def read(self, datagram):
        """What a datagram is: BUSY, with the cookie; CHALLENGE or ANSWER, with None; or None twice.
        An answer is in self.answer then."""
        kind, body = self._envelope.unwrap(datagram) or (None, b"")
        if kind == BUSY and self.transcript is None and body[16:24] == self._tag:
            return BUSY, body[24:]
        if kind == CHALLENGE and self.transcript is None and self._challenged(body):
            return CHALLENGE, None
        if kind == ANSWER and self._answer_key and self._answered(body):
            return ANSWER, None
        return None, None

    def _challenged(self, body):
        shared = x25519_shared(self._private, body[16:48])
        if shared is None:
            return False
        transcript = digest(b"challenge", self._hello, body[:16], body[16:48])
        secret = derive(shared, self._export, b"chain", 32)
        key = derive(secret, None, b"challenge", 32, transcript)
        try:
            self._state = AESGCM(key).decrypt(ZERO_NONCE, body[48:], None)
        except InvalidTag:
            return False
        self.transcript, self._secret = transcript, secret
        return True

    def _answered(self, body):
        try:
            text = AESGCM(self._answer_key).decrypt(body[:12], body[12:], None)
        except InvalidTag:
            return False
        answer = Answer.read(text)
        self.answer = answer or self.answer
        return answer is not None

    def final(self, request, identity):
        """T, the final transcript."""
        return digest(b"request", self.transcript, long(request), identity)

    def seal(self, request, credential, place=0, other=b"", largest=LARGEST_UDP):
        """The datagram with the request. Of two handshakes that one signature is for, place
        is 1 in the first and 2 in the second, and other is the T of the other one. It is
        the same datagram however often it is asked for."""
        if self._request:
            return self._request
        final = self.final(request, credential.identity)
        finals = {0: (final,), 1: (final, other), 2: (other, final)}[place]
        text = (request + bytes([place]) + other + credential.identity
                + credential.proof(message(*finals)))
        overhead = 8 + 1 + STATE + 16
        size = next((s for s in SIZES[REQUEST] if overhead + len(text) <= s <= largest), None)
        if size is None:
            raise ProtocolError(f"a request of {len(text)} bytes does not fit into {largest - overhead}")
        key = derive(self._secret, None, b"request", 32, self.transcript)
        sealed = AESGCM(key).encrypt(ZERO_NONCE, text.ljust(size - overhead, b"\0"), self._state)
        self._answer_key = derive(self._secret, None, b"answer", 32, final)
        self._request = self._envelope.wrap(REQUEST, self._state + sealed, size)
        return self._request


# The single packet


def single(profile, public, fingerprint, credential, counter, random, action=OPEN, seconds=0, door=b"", source=None):
    """A knock in one datagram, which is not answered; counter is in microseconds since 1970,
    and source the address that the gateway sees, or None where the door takes any."""
    sender = Sender(public, L + b"single" + derive(profile, fingerprint, b"info", 32), random(32))
    place = digest(b"door", door)[:4] if door else bytes(4)
    what = struct.pack(">QBH", counter, action, seconds) + credential.id + place
    if source is None:
        packed = bytes(16)
    else:
        packed = source.packed if source.version == 6 else bytes(10) + b"\xff\xff" + source.packed
    signed = digest(b"single", fingerprint, bytes([SINGLE]), sender.enc, what, packed)
    sealed = sender.seal(bytes([SINGLE]), what + credential.raw(signed))
    return Envelope(profile).wrap(SINGLE, sender.enc + sealed, SIZES[SINGLE][0])
