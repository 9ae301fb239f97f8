"""Exports go to a hub over a socket, and what would go wrong is said before anything is written."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from dflash_serve.training.drafter.layout import CARD, CONFIG, WEIGHTS
from tests.tiny import write_drafter
from tests.training.command import call, refused
from tests.training.hub import OWNER, TOKEN, Hub, Repo, running_hub
from tests.training.runs import COMMAND


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """Empty, and this process's hub."""
    served.repos.clear()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return served


def test_an_export_is_uploaded_whole_in_one_private_commit(hub: Hub, tmp_path: Path) -> None:
    source, out = write_drafter(tmp_path / "run"), tmp_path / "out"
    options = ["export", str(source), "--out", str(out), "--hf-repo", f"{OWNER}/mine"]
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",  # large files by the older protocol, which this hub has
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [*COMMAND, *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub.url}/{OWNER}/mine"
    repo = hub.repos[f"{OWNER}/mine"]
    assert (repo.private, repo.commits) == (True, 1)
    assert repo.files == {name: (out / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}
    assert f"--drafter {OWNER}/mine" in repo.files[CARD].decode()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--hf-repo", "mine"), "--hf-repo is mine, but must be OWNER/NAME"),
        (("--hf-repo", "me/a b"), "--hf-repo is me/a b, but must be OWNER/NAME"),
        (("--hf-repo", f"{OWNER}/open"), "me/open exists on the hub and is public: upload with"),
        (
            ("--hf-repo", f"{OWNER}/closed", "--public"),
            "me/closed exists on the hub and is private: upload without --public",
        ),
        (("--public",), "--public has no effect without --hf-repo"),
    ],
)
def test_what_can_be_known_is_refused_before_anything_is_written(
    hub: Hub, tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    hub.repos |= {f"{OWNER}/open": Repo(private=False), f"{OWNER}/closed": Repo(private=True)}
    source = write_drafter(tmp_path / "run")
    assert line in refused("export", source, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_without_a_token_nothing_is_written(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    source = write_drafter(tmp_path / "run")
    output = refused("export", source, "--out", tmp_path / "out", "--hf-repo", f"{OWNER}/mine")
    assert "needs a token of the hub: set HF_TOKEN" in output
    assert not (tmp_path / "out").exists()


def test_a_refusal_of_the_hub_leaves_the_export_and_is_one_line(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = write_drafter(tmp_path / "run")
    result = call("export", source, "--out", out, "--hf-repo", "them/theirs")
    assert result.exit_code == 2
    output = result.output.splitlines()[-1]
    assert f"{out} is written, but cannot be uploaded to them/theirs: " in output
    assert "403" in output
    assert {path.name for path in out.iterdir()} == {CONFIG, WEIGHTS, CARD}
    assert not hub.repos


def test_a_hub_that_cannot_be_reached_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    source = write_drafter(tmp_path / "run")
    output = refused("export", source, "--out", tmp_path / "out", "--hf-repo", f"{OWNER}/mine")
    assert f"{OWNER}/mine cannot be looked up on the hub: " in output
