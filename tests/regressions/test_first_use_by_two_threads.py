"""A process that had just started ended with SIGSEGV: two threads were the first to use a record type (R2).

msgspec 0.22 lets a thread see what another one has only begun to know of a type. Without ``prepare`` this program ends
with -11 at every run.
"""

import subprocess
import sys

import pytest

PROGRAM = '''
import sys, threading, types
import msgspec
from kilonova.objects import base

RECORD = """
class R{n}(msgspec.Struct):
    a: int = 0
    b: 'list[{before}]' = []
    c: 'Optional[{before}]' = None
    d: 'dict[str, {before}]' = {{}}
"""

def family(number):
    module = types.ModuleType(f"family{number}")
    sys.modules[module.__name__] = module
    text = "import msgspec\\nfrom typing import Optional\\n"
    for n in range(20):
        text += RECORD.format(n=n, before=f"R{n - 1}" if n else "int")
    exec(text, module.__dict__)
    return module.R19

def use(cls, barrier):
    barrier.wait()
    msgspec.json.decode(b'{"a": 1, "b": [{"a": 2}], "c": {"a": 1}}', type=cls)

sys.setswitchinterval(1e-6)
for number in range(30):
    cls = family(number)
    if sys.argv[1] == "prepared":
        base.prepare()
    barrier = threading.Barrier(3)
    threads = [threading.Thread(target=use, args=(cls, barrier)) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
'''


@pytest.mark.parametrize("run", range(3))
def test_types_that_were_prepared_may_be_used_at_once(run: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "prepared"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_what_it_mends_is_still_there() -> None:
    """When this fails, msgspec has been mended: ``prepare`` may go."""
    ends = {
        subprocess.run([sys.executable, "-c", PROGRAM, "bare"], capture_output=True).returncode
        for _ in range(3)
    }
    assert ends != {0}
