#!/usr/bin/python3
"""Knocks at a doorward gateway with a sealed knock, over UDP, or over TCP where the
gateway has it and nothing answers over UDP.

    knock.py --invite FILE --key ~/.ssh/id_ed25519      enrols the key, and knocks
    knock.py --profile FILE [--door NAME]               knocks with a key that is enrolled
    knock.py --profile FILE --rescue                    knocks with a rescue code, for which it asks

The first FILE has the line that `doorward invite` printed, and may be - for standard
input; the other is a profile that `doorward accept` wrote. A rescue code is asked for on
the terminal, and is on no command line; with it goes a profile, or the invite at the end
of the sheet. Each address family of the
gateway's host gets a handshake, and one signature opens both. Says what the gateway
answered, and exits with 0 if a door is open or the grant taken back as asked, 1 if
the gateway refused, 2 for a mistake of the caller's, and 3 if nothing answered.
"""

import argparse
import base64
import fcntl
import getpass
import ipaddress
import os
import secrets
import socket
import struct
import sys
import time
import tomllib
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization

import invite
import sealed

PAUSES = (0.3, 0.6, 1.2, 2.4)  # seconds to wait for an answer, each time that a datagram is sent
SERVICE = 30  # seconds to wait for a service that is starting
BUSY = 3  # hellos that are sent to a busy gateway
MISTYPED = 3  # times that a rescue code is asked for

REASONS = {
    1: "the key has expired", 2: "the certificate has expired", 3: "the certificate is not valid yet",
    4: "it is outside the key's hours", 5: "the key is not for this address",
    6: "the certificate is not for this address", 7: "the key is not for this door", 8: "the key is locked",
    9: "the key is revoked", 10: "the certificate has no principal that counts",
    11: "the certificate has a critical option that the gateway does not know",
    12: "the security key was not touched", 13: "the security key did not verify its user",
    14: "this key opens only for its own address", 15: "the code has expired",
    128: "the gateway does not accept this key", 129: "there is no such door",
    130: "the code was used before", 131: "there is nothing to extend",
    132: "the door cannot be opened now", 133: "its service did not start", 134: "the key is too long to be enrolled",
    135: "the code is used now, and the door could not be opened",
}
STATUS = {1: "open", 2: "starting", 3: "taken back", 4: "refused"}


@dataclass
class Gateway:
    """A gateway as its visitor knows it."""
    profile: bytes
    fingerprint: bytes
    hosts: list
    port: int
    door: bytes
    tcp: bool = False  # it is there over TCP, too
    bundle: bytes = b""
    key: str = None  # file
    certificate: str = None  # file
    code: bytes = None  # of an invite that enrols a key

    @classmethod
    def invited(cls, line):
        i = invite.Invite.read(line)
        if i.expiry < time.time():
            raise sealed.ProtocolError(f"the invite has expired at {time.ctime(i.expiry)}: ask for another")
        return cls(i.profile, i.fingerprint, i.hosts, i.port, i.door, i.tcp, code=None if i.known else i.code)

    @classmethod
    def kept(cls, file):
        p = tomllib.load(file)
        try:
            g = p["gateway"]
            return cls(base64.b64decode(g["secret"], validate=True), sealed.read_fingerprint(g["fingerprint"]),
                       p["hosts"], p["port"], (p.get("doors") or [""])[0].encode(), "tcp" in p.get("carriers", []),
                       base64.b64decode(g.get("bundle", "")), p.get("key", {}).get("file"), p.get("key", {}).get("certificate"))
        except KeyError as err:
            raise sealed.ProtocolError(f"the profile {file.name} has no {err}") from None


class Path:
    """The way to one address of the gateway, over UDP."""

    carrier, largest = "UDP", sealed.LARGEST_UDP

    def __init__(self, family, address, tries):
        self.address, self._tries = address[0], tries
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.connect(address)

    def own(self):
        """This machine's address on the way, which is the source if nothing translates it."""
        return ipaddress.ip_address(self._socket.getsockname()[0].partition("%")[0])

    def send(self, datagram):
        try:
            self._socket.send(datagram)
        except OSError:
            pass  # as if it were lost: an ICMP error is nobody's word

    def receive(self, until):
        """The next datagram, or None at that moment."""
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                return self._socket.recv(65535)
            except TimeoutError:
                return None
            except OSError:
                time.sleep(min(left, 0.01))
        return None

    def ask(self, datagram, read):
        """Sends until what comes back is read as something else than None."""
        for pause in PAUSES[:self._tries]:
            self.send(datagram)
            until = time.monotonic() + pause
            while (answer := self.receive(until)) is not None:
                if (result := read(answer)) is not None:
                    return result
        return None


class Stream(Path):
    """The same over TCP, where each datagram comes after its length."""

    carrier, largest = "TCP", sealed.LARGEST_TCP

    def __init__(self, family, address, tries):
        self.address, self._patience = address[0], sum(PAUSES[:tries])
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.settimeout(self._patience)
        self._socket.connect(address)
        self._read = b""

    def send(self, datagram):
        try:
            self._socket.sendall(struct.pack(">H", len(datagram)) + datagram)
        except OSError:
            pass  # what is closed gives no answer

    def receive(self, until):
        while (left := until - time.monotonic()) > 0:
            if len(self._read) >= 2 and len(self._read) >= (end := 2 + struct.unpack_from(">H", self._read)[0]):
                datagram, self._read = self._read[2:end], self._read[end:]
                return datagram
            self._socket.settimeout(left)
            try:
                more = self._socket.recv(65535)
            except OSError:
                return None
            if not more:
                return None
            self._read += more
        return None

    def ask(self, datagram, read):
        """Sends once: TCP sends again."""
        self.send(datagram)
        until = time.monotonic() + self._patience
        while (answer := self.receive(until)) is not None:
            if (result := read(answer)) is not None:
                return result
        return None


def paths(kind, hosts, port, tries):
    """A path of a kind to the first address of each family."""
    found = {}
    for host in hosts:
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as err:
            print(f"knock.py: {host!r}: {err.strerror}", file=sys.stderr)
            continue
        for family, _, _, _, address in addresses:
            if family in found:
                continue
            try:
                found[family] = kind(family, address, tries)
            except OSError:
                pass  # there is no route for this family, or nobody accepts
    if not found and kind is Path:
        raise sealed.ProtocolError("none of the gateway's hosts has an address that can be reached from here")
    return list(found.values())


def gateway_key(path, gateway):
    """The gateway's public key, which is asked for over a path if it is not known, or
    None if nothing answers."""
    envelope = sealed.Envelope(gateway.profile)
    for part in (0, 1) if not gateway.bundle else ():
        def read(datagram):
            number, text = sealed.read_part(envelope, datagram, gateway.fingerprint) or (None, None)
            return text if number == part else None
        text = path.ask(sealed.question(envelope, gateway.fingerprint, part, secrets.token_bytes), read)
        if text is None:
            gateway.bundle = b""
            return None
        gateway.bundle += text
    return sealed.check_bundle(gateway.bundle, gateway.fingerprint)


def begin(path, gateway):
    """A handshake over a path that has got its challenge, or None."""
    public = gateway_key(path, gateway)
    if public is None:
        return None
    handshake = sealed.Handshake(gateway.profile, public, gateway.fingerprint, secrets.token_bytes)
    hello, kind = handshake.hello(), sealed.BUSY
    for _ in range(BUSY):
        read = path.ask(hello, lambda datagram: next((r for r in [handshake.read(datagram)] if r[0]), None))
        kind, cookie = read or (None, None)
        if kind != sealed.BUSY:
            break
        hello = handshake.hello(cookie)
    return handshake if kind == sealed.CHALLENGE else None


def finish(path, handshake, datagram):
    """The gateway's last answer to a request, or None."""
    def read(answer):
        kind, _ = handshake.read(answer)
        return handshake.answer if kind == sealed.ANSWER else None
    answer = path.ask(datagram, read)
    until = time.monotonic() + SERVICE
    while answer is not None and answer.status == 2:
        text = path.receive(until)
        if text is None:
            break
        answer = read(text) or answer
    return answer


def told(path, answer):
    """What an answer says, in a line."""
    if answer is None:
        return f"{path.address}: no answer: is {path.carrier} blocked on the way, or the profile secret no longer valid?"
    if answer.status == 1:
        ports = ", ".join(f"{ {6: 'TCP', 17: 'UDP'}.get(p, p)} {a}" + (f"-{b}" if b != a else "")
                          for p, a, b in answer.ports)
        return f"{path.address}: open for {answer.address} for {answer.milliseconds / 1000:g} s: {ports}"
    said = f"{path.address}: {STATUS.get(answer.status, answer.status)}"
    if answer.status == 4:
        said += f": {REASONS.get(answer.reason, answer.reason)}"
        if answer.milliseconds:
            said += f"; that changes in {answer.milliseconds / 1000:g} s"
    return said


def handshakes(args, gateway, credential):
    for kind in (Path, Stream) if gateway.tcp else (Path,):
        ways = paths(kind, gateway.hosts, gateway.port, args.tries)
        begun = [(p, h) for p in ways if (h := begin(p, gateway))]
        if begun:
            break
        for path in ways:
            print(told(path, None))
    if not begun:
        return 3
    text = sealed.request(args.action, args.open_for, args.door, args.address)
    finals = [h.final(text, credential.identity) for _, h in begun]
    if len(begun) == 1:
        requests = [begun[0][1].seal(text, credential, largest=begun[0][0].largest)]
    else:
        requests = [h.seal(text, credential, i + 1, finals[1 - i], p.largest) for i, (p, h) in enumerate(begun)]
    answers = [finish(p, h, r) for (p, h), r in zip(begun, requests)]
    for (path, _), answer in zip(begun, answers):
        print(told(path, answer))
    if any(a and a.status in (1, 3) for a in answers):
        return 0
    return 1 if any(answers) else 3


def next_counter(name):
    """A counter that is higher than all before, kept in a file that is on disk before it is used."""
    with open(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        counter = max(int(file.read() or 0) + 1, time.time_ns() // 1000)
        file.seek(0)
        file.write(str(counter))
        file.flush()
        os.fsync(file.fileno())
    return counter


def singles(args, gateway, credential):
    for path in paths(Path, gateway.hosts, gateway.port, args.tries):
        public = gateway_key(path, gateway)
        if public is None:
            print(told(path, None))
            return 3
        source = None if args.source == "any" else ipaddress.ip_address(args.source) if args.source else path.own()
        path.send(sealed.single(
            gateway.profile, public, gateway.fingerprint, credential, next_counter(args.counter),
            secrets.token_bytes, args.action, args.open_for, args.door, source))
        print(f"{path.address}: sent; a single packet is not answered")
    return 0


def load_key(name):
    with open(name, "rb") as file:
        text = file.read()
    try:
        return serialization.load_ssh_private_key(text, None)
    except TypeError:  # it is encrypted
        return serialization.load_ssh_private_key(text, getpass.getpass(f"Passphrase for {name}: ").encode())


def ask_code():
    for tries in range(MISTYPED, 0, -1):
        try:
            return sealed.Code.read(getpass.getpass("Rescue code: "))
        except sealed.ProtocolError as err:
            if tries == 1:
                raise
            print(f"knock.py: {err}", file=sys.stderr)


def load_certificate(name):
    with open(name, "rb") as file:
        words = file.read().split()
    if len(words) < 2:
        raise sealed.ProtocolError(f"{name!r} is no certificate: ssh-keygen -s makes one, which ends in -cert.pub")
    return base64.b64decode(words[1], validate=True)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--invite", metavar="FILE", help="file with an invite's line")
    p.add_argument("--profile", metavar="FILE", help="file with a profile")
    p.add_argument("--key", metavar="FILE", help="Ed25519 key in OpenSSH's format, instead of the profile's")
    p.add_argument("--certificate", metavar="FILE", help="the key's OpenSSH certificate, instead of the profile's")
    p.add_argument("--rescue", action="store_true", help="ask for a rescue code, and knock with that instead of a key")
    p.add_argument("--door", type=os.fsencode, metavar="NAME", help="the door, instead of the invite's or the profile's first")
    p.add_argument("--action", choices=("open", "close", "extend"), default="open")
    p.add_argument("--open-for", type=int, default=0, metavar="SECONDS", help="0: as the door says")
    p.add_argument("--address", type=ipaddress.ip_address, help="open for this address instead of one's own")
    p.add_argument("--tries", type=int, choices=range(1, len(PAUSES) + 1), default=len(PAUSES),
                   help="how often a datagram is sent (default: %(default)s)")
    p.add_argument("--one-way", action="store_true", help="send a single packet, which is not answered")
    p.add_argument("--counter", metavar="FILE", help="keeps the counter of single packets")
    p.add_argument("--source", help='the address that the gateway sees, or "any" (single packets)')
    args = p.parse_args()
    if (args.invite is None) == (args.profile is None):
        p.error("one of --invite FILE and --profile FILE says where to knock")
    if args.rescue and (args.key or args.certificate or args.one_way or args.action != "open"):
        p.error("--rescue goes with none of --key, --certificate and --one-way, and opens only")
    if args.one_way and not args.counter:
        p.error("--one-way needs --counter FILE: a gateway takes each number once")
    args.action = {"open": sealed.OPEN, "close": sealed.CLOSE, "extend": sealed.EXTEND}[args.action]
    return args


def run(args):
    if args.profile:
        with open(args.profile, "rb") as file:
            gateway = Gateway.kept(file)
    else:
        with (sys.stdin if args.invite == "-" else open(args.invite)) as file:
            gateway = Gateway.invited(file.readline())
    credential = credential_of(args, gateway)
    args.door = gateway.door if args.door is None else args.door
    return (singles if args.one_way else handshakes)(args, gateway, credential)


def credential_of(args, gateway):
    if args.rescue:
        if gateway.code:
            raise sealed.ProtocolError("--rescue goes with the invite of a sheet of rescue codes: this one enrols a key")
        return ask_code()
    name = args.key or gateway.key
    if not name:
        raise sealed.ProtocolError("no key to knock with: name one with --key FILE, or ask for a rescue code with --rescue")
    key = load_key(name)
    certificate = args.certificate or gateway.certificate
    if gateway.code and not args.one_way:
        return sealed.Invited(key, gateway.code)
    if certificate and not args.one_way:
        return sealed.Certified(key, load_certificate(certificate))
    return sealed.Key(key)


def main():
    try:
        return run(arguments())
    except (sealed.ProtocolError, OSError, ValueError) as err:
        print(f"knock.py: error: {err}", file=sys.stderr)
        return 2
    except EOFError:
        print("knock.py: error: what was asked for was not given, and there is no terminal to ask on", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
