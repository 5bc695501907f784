"""A console URL opened in a real browser: noVNC connects and paints what the guest shows."""

from collections.abc import Iterator

import pytest

from kilonova.server.console_role import NOVNC
from tests.clients import browser
from tests.whole import Whole, running

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(browser.PROGRAM is None, reason="no chromium here"),
    pytest.mark.skipif(not any(p.is_dir() for p in NOVNC), reason="no noVNC here: tools/install"),
]
_PIXEL = """(() => {
  const c = document.querySelector('canvas');
  if (!c || !c.width) return '';
  return Array.from(c.getContext('2d').getImageData(9, 9, 1, 1).data).slice(0, 3).join();
})()"""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Whole]:
    with running() as made:
        yield made


def test_the_display_of_a_guest_is_seen(cloud: Whole) -> None:
    server = cloud.server("shown")
    body = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
    path = f"/compute/v2.1/servers/{server}/remote-consoles"
    url = cloud.call("POST", path, body, version="2.104").json["remote_console"]["url"]
    with browser.page(url) as page:
        page.until("document.getElementById('status').textContent", "Connected to shown")
        page.until(_PIXEL, "32,128,64")
    with browser.page(url) as again:
        said = "document.getElementById('status').textContent.includes('closed')"
        again.until(said, True)
    cloud.gone(server)
