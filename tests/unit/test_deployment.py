"""kilonova.toml of a deployment: typed, and an error names file, table, key and fault. SM-13."""

from pathlib import Path

import pytest

from kilonova.cli.main import main
from kilonova.common import config, deployment
from kilonova.common.config import BadConfig

GOOD = """
token_life_s = 600

[deployment]
state_dir = "/srv/kilonova"
public_url = "https://cloud.example.org"

[bus]
url = ["tls://a:4222", "tls://b:4222"]
credentials = "/etc/kilonova/api.creds"
ca = "/etc/kilonova/ca.pem"

[database]
global = "postgresql://k:pw@db/global"
cell0 = "postgresql://k:pw@db/cell0"
identity = "postgresql://k:pw@db/identity"
image = "postgresql://k:pw@db/image"
network = "postgresql://k:pw@db/network"
volume = "postgresql://k:pw@db/volume"

[cells.cell1]
database = "postgresql://k:pw@db/cell1"

[api]
port = 443
"""


def written(path: Path, text: str) -> Path:
    file = path / "kilonova.toml"
    file.write_text(text)
    return file


def test_what_is_right_is_read(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    assert config.load(file, {}).token_life_s == 600
    tables = deployment.load(file)
    assert tables.bus.url == ("tls://a:4222", "tls://b:4222")
    assert tables.cells == ("cell1",)
    assert tables.databases["cell1"] == "postgresql://k:pw@db/cell1"
    assert tables.api.port == 443
    for role in ("api", "conductor"):
        deployment.needed(file, tables, role)
    for role in ("agent", "console"):
        with pytest.raises(BadConfig, match="holds no database"):
            deployment.needed(file, tables, role)
    assert tables.console.port == 6080


def test_no_tables_are_fine(tmp_path: Path) -> None:
    file = written(tmp_path, "build_time_s = 1\n")
    assert deployment.load(file).databases == {}
    with pytest.raises(BadConfig, match=r"conductor needs \[deployment\] state_dir, \[bus\] url"):
        deployment.needed(file, deployment.load(file), "conductor")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("port = 443", "port = 70000", r"\[api\] port must be from 0 to 65535"),
        ("[api]", "[console]\nport = -1\n[api]", r"\[console\] port must be from 0 to 65535"),
        ("[api]", '[console]\nkey = "/k"\n[api]', r"\[console\] cert and key go together"),
        ("[api]", "[agent]\nconsole_port = 70000\n[api]", r"\[agent\] console_port must be from 0"),
        ("[api]", '[agent]\nconsole_listen = "::"\n[api]', r"\[agent\] console_address is needed"),
        ("[api]", "[agent]\nhosts = 5\n[api]", r"\[agent\] hosts: a machine has at most 4"),
        ("[api]", '[agent]\nvirt_type = "xen"\n[api]', r"\[agent\] virt_type must be qemu or kvm"),
        ("port = 443", 'port = "x"', r"\[api\]: port must be int"),
        ("port = 443", 'cert = "/c"', r"\[api\] cert and key go together"),
        ("port = 443", "prot = 443", r"\[api\] prot is not a setting; known are listen"),
        ('ca = "/etc/kilonova/ca.pem"', "", r"\[bus\] ca is needed for tls"),
        ('"tls://a:4222"', '"http://a"', r"\[bus\] url must be a URL"),
        ('"tls://a:4222"', "7", r"\[bus\]: url must be a list of texts"),
        ("https://cloud", "cloud", r"\[deployment\] public_url must be a URL"),
        ("db/cell1", "db/global", "two databases have the same URL"),
        ("cell1]", "identity]", "a cell cannot have this name"),
        ('"postgresql://k:pw@db/cell1"', '"k:pw@db"', r"\[cells.cell1\] database must be a URL"),
        ("identity =", "identify =", r"\[database\] identify is not one of global"),
        ("[api]", "[api", "kilonova.toml"),
        ("[api]", "[apis]", "apis is not a setting"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    file = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(BadConfig, match=said) as caught:
        config.load(file, {})
        deployment.load(file)
    assert str(file) in caught.value.message
    assert "pw" not in caught.value.message


def test_config_check_reads_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, GOOD)
    assert main(["config", "check", "--config", str(file)]) == 0
    written(tmp_path, GOOD.replace("port = 443", "port = -1"))
    assert main(["config", "check", "--config", str(file)]) == 1
    assert "[api] port" in capsys.readouterr().err


def test_only_services_say_where_images_are() -> None:
    """An order that named ``image:<id>`` by itself would work in one process only."""
    package = Path(config.__file__).parents[1]
    makers = [p for p in package.rglob("*.py") if 'f"image:{' in p.read_text()]
    assert [str(p.relative_to(package)) for p in makers] == ["operations/services.py"]
