"""Make what NATS needs of a deployment: who signs, the server's configuration, credentials of roles and hosts.

kilonova bus init --directory DIR --listen ADDRESS:PORT --cert CERT --key KEY
    writes DIR/account.seed (0600; keep it: it signs all credentials) and DIR/nats.conf for nats-server
kilonova bus credentials --account-seed FILE --role api|conductor|console --out FILE
kilonova bus credentials --account-seed FILE --host NAME --out FILE
kilonova bus revoke --directory DIR --host NAME
    writes DIR/nats.conf anew: the credentials that this host has are refused once nats-server was started again
"""

import argparse
from pathlib import Path

from kilonova.cli.common import Failed


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("verb", choices=("init", "credentials", "revoke"))
    add("--directory", metavar="DIR", help="where init writes, and revoke")
    add("--listen", metavar="ADDRESS:PORT", default="0.0.0.0:4222", help="of nats-server")
    add("--cert", metavar="FILE", help="certificate of nats-server, PEM")
    add("--key", metavar="FILE", help="its key")
    add("--account-seed", metavar="FILE", help="who signs")
    add("--role", choices=("api", "conductor", "console"), help="whose credentials")
    add("--host", metavar="NAME", help="whose credentials")
    add("--out", metavar="FILE", help="where to write them (0600)")


def run(args: argparse.Namespace) -> int:
    """Do it; no key and no credentials are written over."""
    return {"init": _init, "credentials": _credentials, "revoke": _revoke}[args.verb](args)


def _init(args: argparse.Namespace) -> int:
    from kilonova.server import bus_keys
    from kilonova.server.nats_server import Listen

    if not args.directory or not args.cert or not args.key:
        raise Failed("init needs --directory, --cert and --key: a bus in the clear is for tests", 2)
    address, _, port = args.listen.rpartition(":")
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise Failed(f"--listen must be ADDRESS:PORT, not {args.listen!r}", 2)
    listen = Listen(address, int(port), (Path(args.cert).absolute(), Path(args.key).absolute()))
    written = bus_keys.init(Path(args.directory), listen)
    print(f"{written}: start it with 'nats-server -c {written}'")
    return 0


def _credentials(args: argparse.Namespace) -> int:
    from kilonova.server import bus_keys

    if not args.account_seed or not args.out or (args.role is None) == (args.host is None):
        raise Failed("credentials need --account-seed, --out, and either --role or --host", 2)
    seed, out = Path(args.account_seed), Path(args.out)
    if args.role:
        bus_keys.credentials_of_role(seed, args.role, out)
    else:
        bus_keys.credentials_of_host(seed, args.host, out)
    print(f"{out}: credentials of {args.role or args.host}")
    return 0


def _revoke(args: argparse.Namespace) -> int:
    from kilonova.server import bus_keys

    if not args.directory or not args.host:
        raise Failed("revoke needs --directory and --host", 2)
    written = bus_keys.revoke(Path(args.directory), args.host)
    print(f"{written}: the credentials of {args.host} end when nats-server is started again")
    return 0
