#!/usr/bin/python3
"""Checks sealed.py with the examples in internal/seal/testdata/vectors.json.

    vectors.py FILE

Says how many of them are as they should be, and exits with 1 if one is not or if
there is none.
"""

import hashlib
import ipaddress
import json
import sys

from cryptography.hazmat.primitives.asymmetric import ed25519

import sealed
from sealed import digest, derive, long

checked = 0
wrong = []


def check(name, got, want):
    global checked
    checked += 1
    if got != want:
        got, want = (x.hex() if isinstance(x, bytes) else x for x in (got, want))
        wrong.append(f"{name}: {got}, want {want}")


def raw(vector):
    """A vector with its hexadecimal numbers as bytes."""
    words = {"name", "suite", "from", "fingerprint", "door", "why", "to"}
    return {k: bytes.fromhex(v) if isinstance(v, str) and k not in words else v for k, v in vector.items()}


def stream(*parts):
    """A source of randomness that has these parts, one after the other."""
    left = list(parts)

    def random(n):
        part = left.pop(0)
        assert len(part) == n, f"{n} random bytes were asked for, want {len(part)}"
        return part
    return random


class Gateway:
    def __init__(self, vector):
        self.profile = vector["profile_secret"]
        self.fingerprint = sealed.read_fingerprint(vector["fingerprint"])
        self.public = sealed.check_bundle(vector["bundle"], self.fingerprint)
        self.envelope = sealed.Envelope(self.profile)
        check("fingerprint", sealed.fingerprint_text(self.fingerprint), vector["fingerprint"])
        for direction in ("gateway", "visitor"):
            to = b"to " + direction.encode()
            check("tag key", derive(self.profile, None, b"tag " + to, 16), vector["tag_key_to_" + direction])
            check("mask key", derive(self.profile, None, b"mask " + to, 32), vector["mask_key_to_" + direction])
        for purpose in (b"hello", b"single"):
            info = sealed.L + purpose + derive(self.profile, self.fingerprint, b"info", 32)
            check("info", info, vector["info_" + purpose.decode()])

    def handshake(self, v):
        """The visitor's side of an example of the X25519 suite, after its hello."""
        h = sealed.Handshake(self.profile, self.public, self.fingerprint, stream(v["hpke_ephemeral"], v["f"]))
        check(v["name"] + ": hello", h.hello(v["cookie"]), v["hello"])
        return h


class Given:
    """A credential with a proof that is given."""

    def __init__(self, v):
        self.identity = v["identity"]
        self._proof = v["credential"][len(self.identity):]

    def proof(self, message):
        return self._proof


def key(v):
    return ed25519.Ed25519PrivateKey.from_private_bytes(v["signing_key"])


def credential(v):
    """The credential of an example, made of its secrets where there are some."""
    kind = v["identity"][0]
    if kind == 1:
        return sealed.Key(key(v))
    if kind == 3:
        return sealed.Secret(v["machine_secret"])
    if kind == 4:
        return sealed.Code(v["identity"][1:])
    if kind == 5:
        return sealed.Invited(key(v), v["identity"][1:17])
    return Given(v)


def derived(gateway, v):
    """What follows from what both sides agree on, in either suite."""
    name = v["name"]
    kind = bytes([{"X25519": 0x12, "MLKEM768-X25519": 0x11}[v["suite"]]])
    h = digest(b"hello", gateway.fingerprint, kind, v["enc"], v["hello_sealed"])
    check(name + ": H", h, v["H"])
    private = sealed.x25519_private(v["f"])
    check(name + ": F", sealed.x25519_public(private), v["F"])
    check(name + ": shared", sealed.x25519_shared(private, v["R"]), v["shared"])
    transcript = digest(b"challenge", h, v["random"], v["R"])
    check(name + ": transcript", transcript, v["transcript"])
    check(name + ": secret", derive(v["shared"], v["export"], b"chain", 32), v["secret"])
    for purpose in ("challenge", "request"):
        check(f"{name}: {purpose} key", derive(v["secret"], None, purpose.encode(), 32, transcript), v[purpose + "_key"])
    final = digest(b"request", transcript, long(v["request"]), v["identity"])
    check(name + ": T", final, v["T"])
    check(name + ": answer key", derive(v["secret"], None, b"answer", 32, final), v["answer_key"])
    finals = {0: [final], 1: [final, v["pair_other"]], 2: [v["pair_other"], final]}[v["pair"]]
    check(name + ": message", sealed.message(*finals), v["message"])
    who = credential(v)
    check(name + ": identity", who.identity, v["identity"])
    check(name + ": credential", who.identity + who.proof(v["message"]), v["credential"])


def handshake(gateway, v):
    """The visitor's side of an example, up to its request."""
    name = v["name"]
    h = gateway.handshake(v)
    check(name + ": busy", h.read(v["busy"])[0], sealed.BUSY)
    check(name + ": challenge", h.read(v["challenge"]), (sealed.CHALLENGE, None))
    check(name + ": state", h._state, v["state"])
    request = h.seal(v["request"], credential(v), v["pair"], v["pair_other"])
    check(name + ": request", request, v["request_datagram"])
    return h


def answers(gateway, v):
    h = handshake(gateway, v)
    for i, answer in enumerate(v["answers"]):
        answer = raw(answer)
        check(f"{v['name']}: answer {i}", h.read(answer["datagram"]), (sealed.ANSWER, None))
        a = h.answer
        packed = ipaddress.IPv6Address("::ffff:" + str(a.address) if a.address.version == 4 else a.address).packed
        text = bytes([a.status, a.reason]) + a.milliseconds.to_bytes(4, "big") + packed + a.fingerprint
        text += bytes([len(a.ports)]) + b"".join(p.to_bytes(1, "big") + x.to_bytes(2, "big") + y.to_bytes(2, "big")
                                                 for p, x, y in a.ports)
        check(f"{v['name']}: answer {i}", text, answer["text"])


def single(gateway, v):
    if v["suite"] != "X25519":
        return
    source = None if v["any_source"] else ipaddress.ip_address(v["from"])
    got = sealed.single(gateway.profile, gateway.public, gateway.fingerprint, sealed.Key(key(v)), v["counter"],
                        stream(v["hpke_ephemeral"]), seconds=v["seconds"], door=v["door"].encode(), source=source)
    check("single packet", got, v["datagram"])


def question(gateway, v, bundle):
    got = sealed.question(gateway.envelope, gateway.fingerprint, v["part"], stream(v["random"]))
    check("question", got, v["question"])
    part = bundle[624 * v["part"]:624 * (v["part"] + 1)]
    check("part", sealed.read_part(gateway.envelope, v["answer"], gateway.fingerprint), (v["part"], part))


def bad(gateway, v, first):
    """A datagram to a visitor of which nothing may come. Those to a gateway are not for this."""
    if v["to"] == "visitor who asks":
        check(v["why"], sealed.read_part(gateway.envelope, v["datagram"], gateway.fingerprint), None)
    elif v["to"].startswith("visitor"):
        h = gateway.handshake(first) if v["to"] == "visitor before the challenge" else handshake(gateway, first)
        before = h.transcript
        check(f"{v['to']}: {v['why']}", h.read(v["datagram"]), (None, None))
        check(f"{v['to']}: {v['why']}: state", (h.transcript, h.answer), (before, None))
    elif v["to"] != "gateway":
        raise ValueError(f"to {v['to']}")


def main(name):
    with open(name) as file:
        vectors = json.load(file)
    top = raw(vectors["gateway"])
    gateway = Gateway(top)
    check("bundle", hashlib.sha256(top["bundle"]).digest(), gateway.fingerprint)
    parts = {k: [raw(v) for v in vectors[k]] for k in ("handshakes", "single_packets", "questions", "bad")}
    for k, found in parts.items():
        check(f"there are {k}", bool(found), True)
    for v in parts["handshakes"]:
        derived(gateway, v)
        if v["suite"] == "X25519":
            answers(gateway, v)
    for v in parts["single_packets"]:
        single(gateway, v)
    for v in parts["questions"]:
        question(gateway, v, top["bundle"])
    for v in parts["bad"]:
        bad(gateway, v, parts["handshakes"][0])
    for line in wrong:
        print(line)
    print(f"{checked} vectors")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("vectors.py: error: one argument: the file with the vectors")
    sys.exit(main(sys.argv[1]))
