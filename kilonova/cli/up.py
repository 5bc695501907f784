"""Start a whole cloud in one process: identity, images, networks, compute, hosts. Doing it again is harmless.

As root with libvirt this machine becomes the host of real guests. Without root, or for tests:
  kilonova up --driver fake                                  a simulated cloud, kept
  kilonova up --driver fake --ephemeral --port 0 --json      a test double that keeps nothing
"""

import argparse
import dataclasses
import gc
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kilonova.cli import output
from kilonova.cli.common import Failed, common_options
from kilonova.common.config import Settings
from kilonova.server import ground, launch, privileges, state

_FAKE_HOSTS = 3
_REAL_HOSTS = 4  # on one machine


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    common_options(parser)
    add = parser.add_argument
    add("--port", type=_port, metavar="N", help="of the API, default 8774; 0 picks a free one")
    add("--listen", metavar="ADDRESS", help="default 127.0.0.1; any other address turns TLS on")
    add("--public-url", metavar="URL", help="what clients are told, when they come through a proxy")
    add("--tls", metavar="auto|CERT,KEY", help="auto: a certificate authority of our own")
    add(
        "--cells",
        type=_count,
        metavar="N",
        help="cells, default 1; with libvirt its hosts are in them in turn",
    )
    add(
        "--hosts",
        type=_count,
        metavar="N",
        help="simulated hosts per cell, default 3; with libvirt: hosts on this machine",
    )
    add("--driver", choices=("libvirt", "fake"), help="default: libvirt where real guests can run")
    add("--split", action="store_true", help="each role a process of its own, on NATS")
    add(
        "--database",
        choices=("postgresql", "mariadb", "sqlite"),
        help="with --split; default: PostgreSQL where it is installed",
    )
    add("--conductors", type=_count, metavar="N", help="with --split; default 1")
    add("--apis", type=_count, metavar="N", help="with --split; default 1, each on its own port")
    add("--build-time", type=_seconds, metavar="S", help="how long a simulated build takes")
    add("--ephemeral", action="store_true", help="keep nothing (simulated clouds)")
    add("--detach", action="store_true", help="return when the cloud answers")
    add(
        "--config",
        metavar="FILE",
        help="settings in TOML; default: kilonova.toml in the state directory",
    )
    add("--public-cidr", metavar="CIDR", help="of floating addresses, when the default is in use")
    add("--public-interface", metavar="IF", help="the public network is on it, not behind NAT")
    add("--public-pool", metavar="A-B", help="free addresses there, for routers and floating IPs")
    add("--image", metavar="FILE", help="the qcow2 file to seed as tiny-linux")


def _number(text: str, low: int, high: int) -> int:
    if not text.isdigit() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be a number from {low} to {high}, not {text!r}")
    return int(text)


def _port(text: str) -> int:
    return _number(text, 0, 65535)


def _count(text: str) -> int:
    return _number(text, 1, 10000)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to 86400, not {text!r}")
    return value


class _Person:
    """Tells a person, or a program that reads one JSON object from stdout."""

    def __init__(self, json: bool, detach: bool) -> None:
        self.json = json
        self.detach = detach
        self.progress = output.Progress(quiet=json)

    def step(self, text: str) -> None:
        self.progress.done(text)

    def failed(self, message: str) -> None:
        print(f"kilonova: {message}", file=sys.stderr)

    def ready(self, what: dict[str, Any]) -> None:
        if self.json:
            output.print_json({**what, "already_running": False})
        else:
            summary(what, "Kilonova runs")
            if not self.detach:
                print("\nCtrl-C stops it.")
            sys.stdout.flush()


def summary(what: dict[str, Any], headline: str) -> None:
    """Print what runs and how to use it."""
    hosts = "this machine is the host" if what["driver"] == "libvirt" else "simulated hosts"
    print(output.bold(f"\n{headline}: {what['url']}"))
    output.facts(
        [
            ("  driver", f"{what['driver']} ({hosts})"),
            ("  state", what["state_dir"]),
            ("  log", what["log"]),
            ("  process", what["pid"]),
        ]
    )
    print("\nUse it with the openstack client (pip install python-openstackclient):\n")
    output.use_it(what["clouds_yaml"])


def run(args: argparse.Namespace) -> int:
    """Start the cloud, or find the one that runs."""
    gc.disable()  # a tenth of the start would go to looking for garbage; on again when the cloud is ready
    if args.ephemeral:
        ground.sweep(Path(tempfile.gettempdir()))
        if args.state_dir:
            raise Failed("--ephemeral keeps nothing, so it takes no --state-dir", 2)
        if args.driver == "libvirt":
            raise Failed("--ephemeral is for simulated clouds: --driver fake", 2)
        args.driver = "fake"
        return _start(args, Path(tempfile.mkdtemp(prefix=f"{state.EPHEMERAL}{os.getpid()}-")))
    directory = state.chosen(args.state_dir)
    found = state.running(directory)
    if found is None:
        return _start(args, directory)
    what = launch.describe(directory, found)
    if args.json:
        output.print_json({**what, "already_running": True})
    else:
        summary(what, "Kilonova runs already")
    return 0


def _start(args: argparse.Namespace, directory: Path) -> int:
    try:
        start = _decide(args, directory)
        person = _Person(args.json, args.detach)
        return launch.detached(start, person) if args.detach else launch.foreground(start, person)
    except BaseException:
        if args.ephemeral and state.running(directory) is None:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _decide(args: argparse.Namespace, directory: Path) -> launch.Start:
    made = state.deployment(directory)
    settings = _settings(args, directory)
    deployment = _deployment(args, made, directory)
    libvirt = deployment.driver == "libvirt"
    if deployment.split:
        if deployment.port == 0:
            settings = dataclasses.replace(settings, console_port=0)
        deployment = _split(deployment, args)
    settings = _networks(args, made, settings, libvirt=libvirt)
    deployment = dataclasses.replace(
        deployment, **{name: getattr(settings, name) for name in _NETWORKS}
    )
    ground.check_port(deployment.listen, deployment.port)
    user = (
        ground.cloud_user(libvirt=libvirt, ephemeral=args.ephemeral) if os.geteuid() == 0 else None
    )
    ground.prepare(directory, user, with_helper=libvirt)
    if user is not None and not libvirt and not _can_reveal(directory, user):
        user = None
        ground.prepare(directory, None, with_helper=False)
        print("kilonova: note: runs as root; its code is closed to other users", file=sys.stderr)
    cert, cacert, deployment = _tls(args, deployment, directory, user)
    return launch.Start(
        directory=directory,
        deployment=deployment,
        settings=settings,
        tls=cert,
        cacert=cacert,
        ephemeral=args.ephemeral,
        tiny_image=_tiny_image(args, libvirt),
        root_user=user,
    )


def _settings(args: argparse.Namespace, directory: Path) -> Settings:
    from kilonova.common import config

    if args.config and not Path(args.config).is_file():
        raise Failed(f"there is no file {args.config}", 2)
    own = directory / "kilonova.toml"
    path = Path(args.config) if args.config else own if own.exists() else None
    settings = config.load(path)
    if args.build_time is not None:
        settings = dataclasses.replace(settings, build_time_s=args.build_time)
    return settings


def _deployment(
    args: argparse.Namespace, made: state.Deployment | None, directory: Path
) -> state.Deployment:
    from kilonova import __version__

    if made is not None and args.driver not in (None, made.driver):
        raise Failed(
            f"{directory} was made with --driver {made.driver}; use another --state-dir for {args.driver}."
        )
    base = made or state.Deployment(
        driver=args.driver or _find_driver(directory), version=__version__, hosts=_FAKE_HOSTS
    )
    if base.driver == "libvirt":
        hosts = args.hosts or (1 if made is None else made.hosts)
        if hosts > _REAL_HOSTS or (args.cells or 1) > hosts:
            raise Failed(
                f"with libvirt this machine is one host or 2 to {_REAL_HOSTS} (--hosts), and no cell is without a host",
                2,
            )
        base = dataclasses.replace(base, hosts=hosts)
    given = {
        k: getattr(args, k)
        for k in ("cells", "hosts", "port", "listen", "public_url", "tls", "conductors", "apis")
        if getattr(args, k) is not None
    }
    if args.split != base.split and made is not None:
        how = "with" if base.split else "without"
        raise Failed(f"{directory} was made {how} --split; use another --state-dir.")
    if (args.database or args.conductors or args.apis) and not args.split:
        raise Failed("--database, --conductors and --apis are for --split", 2)
    if made is not None and args.database not in (None, made.database):
        raise Failed(f"{directory} was made with --database {made.database}")
    given["database"] = args.database or base.database
    return dataclasses.replace(base, version=__version__, split=args.split, **given)


def _split(deployment: state.Deployment, args: argparse.Namespace) -> state.Deployment:
    """Return the deployment with what its processes must be told: which port."""
    from kilonova.server.split_launch import port_of

    port = port_of(deployment.port, deployment.listen)
    return dataclasses.replace(deployment, port=port)


def _find_driver(directory: Path) -> str:
    """Return libvirt where real guests can run, else stop with what is missing."""
    from kilonova.agent import doctor

    missing = doctor.real_guests_can_run(doctor.run_checks(directory, try_kvm=False))
    if not missing:
        return "libvirt"
    lines = [
        f"  {row.name}: {row.detail}" + (f"  (mend: {row.mend})" if row.mend else "")
        for row in missing
    ]
    raise Failed(
        "real guests cannot run here:\n"
        + "\n".join(lines)
        + "\n'make up' in a checkout installs what a Debian 12 machine lacks; 'kilonova doctor' tries everything."
        + "\nA simulated cloud needs none of it: kilonova up --driver fake"
    )


_NETWORKS = ("public_cidr", "private_cidr", "public_interface", "public_pool", "public_gateway")


def _networks(
    args: argparse.Namespace, made: state.Deployment | None, settings: Settings, *, libvirt: bool
) -> Settings:
    """Decide on the first networks once; afterwards they are what they were."""
    interface = args.public_interface or settings.public_interface
    pool = args.public_pool or settings.public_pool
    if (interface is None) != (pool is None):
        raise Failed("--public-interface and --public-pool go together", 2)
    if interface is not None and not libvirt:
        raise Failed("--public-interface is for real guests; simulated ones send no packets", 2)
    if made is not None:
        if args.public_interface not in (None, made.public_interface) or args.public_pool not in (
            None,
            made.public_pool,
        ):
            raise Failed("the public network is made at the first start; use another --state-dir")
        known = {n: getattr(made, n) for n in _NETWORKS if getattr(made, n) is not None}
        return dataclasses.replace(settings, **known)
    if not libvirt:
        return settings
    if interface is None or pool is None:
        return _free_networks(settings, args.public_cidr)
    from kilonova.server import public_interface

    try:
        public = public_interface.find(interface, pool, args.public_cidr)
    except public_interface.PublicInterfaceRefused as exc:
        raise Failed(exc.message, 2) from exc
    settings = _free_networks(settings, None)
    return dataclasses.replace(
        settings,
        public_cidr=public.cidr,
        public_interface=interface,
        public_pool=pool,
        public_gateway=public.gateway,
    )


def _free_networks(settings: Settings, wanted: str | None) -> Settings:
    """Choose first networks that do not meet the machine's own routes."""
    from kilonova.agent import doctor

    public = (wanted,) if wanted else (settings.public_cidr, *doctor.DEFAULT_CIDRS)
    private = (settings.private_cidr, *(f"10.{n}.0.0/24" for n in range(11, 250)))
    chosen = doctor.choose_cidr(public), doctor.choose_cidr(private)
    if chosen[0] is None or chosen[1] is None:
        raise Failed(
            "the public network overlaps a route of this machine; name a free one with --public-cidr"
        )
    return dataclasses.replace(settings, public_cidr=chosen[0], private_cidr=chosen[1])


def _can_reveal(directory: Path, name: str) -> bool:
    """Try, in a process of its own, whether the cloud's user can reach code and state."""
    user = privileges.find_user(name)
    if user is None:
        return False
    child = os.fork()
    if child == 0:
        code = 1
        try:
            privileges.reveal([*privileges.code_directories(), directory], user)
            privileges.become(user)
            ground.probe(directory)
            code = 0 if os.access(Path(__file__), os.R_OK) else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _tls(
    args: argparse.Namespace, deployment: state.Deployment, directory: Path, user: str | None
) -> tuple[tuple[str, str] | None, str | None, state.Deployment]:
    """Return (certificate, key), the authority's file, and the deployment with what follows from TLS."""
    listen, wanted = deployment.listen, deployment.tls
    if wanted is None and not _is_loopback(listen):
        wanted = "auto"
        print(f"kilonova: note: TLS is on because {listen} is not loopback", file=sys.stderr)
    wildcard = listen in ("0.0.0.0", "::")  # noqa: S104
    if wildcard and deployment.public_url is None:
        if deployment.port == 0:
            raise Failed(f"--listen {listen} with --port 0 needs --public-url", 2)
        address = _own_address()
        url = f"https://{address}:{deployment.port}"
        deployment = dataclasses.replace(deployment, public_url=url)
    if wanted is None:
        return None, None, deployment
    if wanted != "auto":
        cert, comma, key = wanted.partition(",")
        if not comma or not Path(cert).is_file() or not Path(key).is_file():
            raise Failed("--tls is 'auto' or CERT,KEY: two PEM files that exist", 2)
        return (cert, key), None, deployment
    from kilonova.server import tls

    names = [listen] if not wildcard else [_own_address()]
    if deployment.public_url:
        names.append(urlsplit(deployment.public_url).hostname or listen)
    cert, key, ca = tls.ensure(directory / "tls", names)
    if user is not None:
        _give(directory / "tls", user)
    return (cert, key), ca, dataclasses.replace(deployment, tls="auto")


def _give(directory: Path, name: str) -> None:
    owner = privileges.find_user(name)
    if owner is not None:
        for path in (directory, *directory.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)


def _is_loopback(listen: str) -> bool:
    return listen in ("localhost", "::1") or listen.startswith("127.")


def _own_address() -> str:
    """Return the address that others reach this machine by: that of its default route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def _tiny_image(args: argparse.Namespace, libvirt: bool) -> Path | None:
    if args.image:
        path = Path(args.image).absolute()
        if not path.is_file():
            raise Failed(f"there is no file {path}", 2)
        return path
    cached = Path(os.environ.get("KILONOVA_CACHE", "/var/cache/kilonova")) / "tiny-linux.qcow2"
    if libvirt and cached.is_file():
        return cached
    if libvirt:
        print(
            "kilonova: note: no image tiny-linux; build one with guest-image/build and name it with --image",
            file=sys.stderr,
        )
    return None
