"""kill -9 of the cloud at journaled steps, while a real guest boots from a volume: the next process ends it (R2).

The same moves as test_cloud_killed.py, whose guest has a local disk. Each kill proves that its step was reached; what
the guest wrote is in its root volume and in another one afterwards. The tests build on each other; run the whole file.
"""

from collections.abc import Iterator

import pytest

from tests.real import kill_story
from tests.real.kill_story import Story
from tests.real.outside import missing

_why = missing()
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(_why is not None, reason=str(_why)),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with kill_story.running_story(tmp_path_factory.mktemp("key"), backed=True) as made:
        yield made


def test_create(story: Story) -> None:
    """Its root volume was made and nobody wrote it down; there is one server, and one volume."""
    kill_story.begin(story, backed=True, at="volumes:do:after")
    assert len(story.volumes("GET", "/volumes")["volumes"]) == 1
    kill_story.give_volumes(story)
    story.sound()


def test_attach_and_detach(story: Story) -> None:
    kill_story.attach_and_detach(story, "guest:do:after", "release:do:before")


def test_snapshot(story: Story) -> None:
    """Once when the snapshots are asked for, once when the image is described: nothing is there twice."""
    kill_story.snapshot(story, "snapshots:do:after", "image:do:after")


def test_rescue_and_unrescue(story: Story) -> None:
    """2.87: a stable rescue, for which the root volume stays where it is."""
    kill_story.rescue(story, "guest:do:after", "guest:do:after")


def test_rebuild(story: Story) -> None:
    """2.93: the volume is written anew; killed when the host has let go of it, and when it is written."""
    kill_story.rebuild(story, "root:do:after", "fill:do:after")


def test_resize_and_revert(story: Story) -> None:
    kill_story.resize_and_revert(story, "guest:do:after", "guest:do:after")


def test_resize_and_confirm(story: Story) -> None:
    kill_story.resize_and_confirm(story, "claim:do:after", "claim:do:after")


def test_shelve_and_unshelve(story: Story) -> None:
    """Without an image: the volume is all that it has, and stays reserved for it."""
    kill_story.shelve_and_unshelve(story, "remove:do:after", "ports:do:after")


def test_delete(story: Story) -> None:
    """Killed when its volumes are let go of: the root volume is deleted, the other one free."""
    kill_story.end(story, "volumes:do:after")
