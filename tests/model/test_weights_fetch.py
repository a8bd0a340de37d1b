"""Fetching the foundation model, by the hub's own client, from a server on loopback that answers like the hub."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import Hub
from safetensors.torch import load_file, save_file

from densityclip.errors import UserError
from densityclip.model.biomedclip import BIOMEDCLIP, load_foundation
from densityclip.model.hub import BIOMEDCLIP_REVISION
from densityclip.model.weights_check import check, origin

TEXT_MODEL = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
TEXT_COMMIT = "7" * 40
PICKLE = "open_clip_pytorch_model.bin"
SAFETENSORS = "open_clip_model.safetensors"
# The client writes in pieces of 10 MiB, so what was cut after that goes on from there.
PIECE = 10 * 1024 * 1024


@pytest.fixture(scope="module")
def published(small_foundation: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The small model as BiomedCLIP's publishers lay it out: a pickle, and the text tower's config elsewhere."""
    weights: dict[str, torch.Tensor] = dict(load_file(small_foundation / SAFETENSORS))
    # The published file has this buffer too; large here, so that the pickle takes more than one piece.
    weights["text.transformer.embeddings.position_ids"] = torch.arange(2_000_000)[None]
    pickle = tmp_path_factory.mktemp("published") / PICKLE
    torch.save(weights, pickle)
    config = json.loads((small_foundation / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": TEXT_MODEL, "hf_tokenizer_name": TEXT_MODEL}
    names = [path.name for path in small_foundation.iterdir() if "token" in path.name or path.name == "vocab.txt"]
    model = {name: (small_foundation / name).read_bytes() for name in names}
    model |= {PICKLE: pickle.read_bytes(), "open_clip_config.json": json.dumps(config).encode(), "README.md": b"card"}
    return {"model": model, "text": {"config.json": (small_foundation / "text" / "config.json").read_bytes()}}


@pytest.fixture
def hub(published: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    with serve(published) as running:
        yield running


def serve(published: dict[str, dict[str, bytes]]) -> Hub:
    return Hub(
        repos={
            BIOMEDCLIP: {BIOMEDCLIP_REVISION: dict(published["model"])},
            TEXT_MODEL: {TEXT_COMMIT: dict(published["text"])},
        },
        heads={(BIOMEDCLIP, "main"): BIOMEDCLIP_REVISION, (TEXT_MODEL, "main"): TEXT_COMMIT},
    )


def environment(endpoint: str, home: Path) -> dict[str, str]:
    """The client reads it when it is imported, so every fetch is a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    kept = {name: value for name, value in kept.items() if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    return kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "densityclip.cli", "weights", *map(str, arguments)]


def fetch(hub: Hub, out: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = environment(hub.endpoint, out.parent / "hub-home") | variables
    return subprocess.run(
        command("fetch", "--out", out, *options), capture_output=True, text=True, env=env, check=False, timeout=120
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that the user sees."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def fetched(published: dict[str, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hub]:
    """A folder that was fetched over a connection that broke in the middle of the weights, and what the server saw."""
    out = tmp_path_factory.mktemp("fetched") / "biomedclip"
    with serve(published) as running:
        running.cut[PICKLE] = PIECE + 1_000_000
        done = fetch(running, out)
        assert done.returncode == 0, done.stderr
        assert BIOMEDCLIP_REVISION in done.stdout
    return out, running


@pytest.fixture
def copy(fetched: tuple[Path, Hub], tmp_path: Path) -> Path:
    return shutil.copytree(fetched[0], tmp_path / "biomedclip")


def test_a_fetched_folder_loads_and_gives_the_features_of_the_source(fetched: tuple[Path, Hub], small_foundation: Path):
    ours, source = load_foundation(fetched[0]), load_foundation(small_foundation)
    image = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    tokens = ours.tokenizer(["extremely dense", "almost entirely fatty"])
    assert torch.equal(tokens, source.tokenizer(["extremely dense", "almost entirely fatty"]))
    with torch.no_grad():
        assert torch.equal(ours.clip.encode_image(image), source.clip.encode_image(image))
        assert torch.equal(ours.clip.encode_text(tokens), source.clip.encode_text(tokens))


def test_the_text_config_comes_along_and_no_pickle_stays(
    fetched: tuple[Path, Hub], published: dict[str, dict[str, bytes]]
):
    out = fetched[0]
    assert (out / "text" / "config.json").read_bytes() == published["text"]["config.json"]
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == (set(published["model"]) - {PICKLE, "README.md"}) | {
        SAFETENSORS,
        "text/config.json",
        "weights.json",
    }
    record = json.loads((out / "weights.json").read_text())
    assert (record["repository"], record["commit"]) == (BIOMEDCLIP, BIOMEDCLIP_REVISION)
    assert (record["text_repository"], record["text_commit"]) == (TEXT_MODEL, TEXT_COMMIT)
    assert set(record["files"]) == names - {"weights.json"}


def test_a_connection_that_breaks_goes_on_where_it_broke(fetched: tuple[Path, Hub]):
    asked = [request.range for request in fetched[1].seen if request.method == "GET" and "/cdn/" in request.path]
    assert asked == [None, f"bytes={PIECE}-"]


def test_a_second_fetch_asks_the_server_nothing(copy: Path, hub: Hub):
    done = fetch(hub, copy)
    assert done.returncode == 0, done.stderr
    assert "nothing had to be downloaded" in done.stdout
    assert hub.seen == []
    assert fetch(hub, copy, "--revision", "main").returncode == 0
    assert hub.downloads() == []


def test_other_content_than_the_hubs_hash_says_is_refused_named_and_not_left(tmp_path: Path, hub: Hub):
    hub.altered.add(PICKLE)
    said = refused(fetch(hub, tmp_path / "out"))
    assert PICKLE in said
    assert "deleted" in said
    assert not list((tmp_path / "out").rglob("*.bin*"))
    hub.altered = {"vocab.txt"}
    assert "vocab.txt" in refused(fetch(hub, tmp_path / "other"))
    assert not list((tmp_path / "other").rglob("vocab.txt*"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--repo", "nobody/nothing", "--revision", "main"), "no repository nobody/nothing"),
        (("--repo", "nobody/nothing"), "no revision of nobody/nothing was given"),
        (("--repo", "no name at all", "--revision", "main"), "is no name of a repository"),
        (("--revision", "0" * 40), f"no revision {'0' * 40}"),
    ],
)
def test_what_the_hub_has_not_is_named(options: tuple[str, ...], named: str, tmp_path: Path, hub: Hub):
    assert named in refused(fetch(hub, tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


def test_a_repository_without_weights_or_config_or_text_model_is_refused(tmp_path: Path, hub: Hub):
    del hub.repos[BIOMEDCLIP][BIOMEDCLIP_REVISION][PICKLE]
    assert "has no weights" in refused(fetch(hub, tmp_path / "out"))
    del hub.repos[TEXT_MODEL]
    assert f"no repository {TEXT_MODEL}" in refused(fetch(hub, tmp_path / "out"))
    del hub.repos[BIOMEDCLIP][BIOMEDCLIP_REVISION]["open_clip_config.json"]
    assert "has no open_clip_config.json" in refused(fetch(hub, tmp_path / "out"))


@pytest.mark.parametrize(
    ("answer", "named"),
    [((401, "GatedRepo"), "gated"), ((403, ""), "refuses"), ((503, ""), "answered 503")],
)
def test_a_hub_that_will_not_give_says_why(answer: tuple[int, str], named: str, tmp_path: Path, hub: Hub):
    hub.answers["open_clip_config.json"] = answer
    assert named in refused(fetch(hub, tmp_path / "out"))


def test_no_network_and_offline_mode_are_told(tmp_path: Path, hub: Hub):
    assert "HF_HUB_OFFLINE" in refused(fetch(hub, tmp_path / "out", HF_HUB_OFFLINE="1"))
    closed = "http://127.0.0.1:9"
    assert f"from {closed}" in refused(fetch(hub, tmp_path / "out", HF_ENDPOINT=closed))


def test_a_disk_that_is_too_small_is_told_before_the_download(tmp_path: Path, hub: Hub):
    hub.sizes[PICKLE] = 10**18
    said = refused(fetch(hub, tmp_path / "out"))
    assert "MB free" in said
    assert PICKLE not in hub.downloads()


def test_a_folder_with_another_model_is_left_as_it_is(copy: Path, tmp_path: Path, hub: Hub):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert "holds" in refused(fetch(hub, copy, "--revision", "1" * 40))
    (copy / "weights.json").unlink()
    (copy / "open_clip_config.json").write_bytes(before[copy / "open_clip_config.json"] + b"\n")
    assert "holds another model" in refused(fetch(hub, copy))
    assert (copy / SAFETENSORS).read_bytes() == before[copy / SAFETENSORS]


@pytest.mark.slow
def test_a_fetch_that_was_killed_goes_on(tmp_path: Path, hub: Hub):
    out = tmp_path / "out"
    hub.stall[PICKLE] = PIECE + 1_000_000
    running = subprocess.Popen(
        command("fetch", "--out", out),
        env=environment(hub.endpoint, tmp_path / "hub-home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert hub.stalled.wait(60)
    running.kill()
    running.wait()
    assert not (out / PICKLE).exists()
    with pytest.raises(UserError, match="has no weights"):
        check(out)
    hub.seen.clear()
    done = fetch(hub, out)
    assert done.returncode == 0, done.stderr
    assert hub.downloads() == [PICKLE]
    assert not (out / ".fetch").exists()
    assert check(out).source == (BIOMEDCLIP, BIOMEDCLIP_REVISION)


@pytest.mark.slow
def test_a_fetch_mends_what_was_changed_and_fetches_nothing_else(copy: Path, hub: Hub):
    (copy / "vocab.txt").write_text("changed")
    (copy / "text" / "config.json").unlink()
    done = fetch(hub, copy)
    assert done.returncode == 0, done.stderr
    assert sorted(hub.downloads()) == ["config.json", "vocab.txt"]
    assert check(copy).source == (BIOMEDCLIP, BIOMEDCLIP_REVISION)


def test_the_command_says_that_a_folder_is_complete(fetched: tuple[Path, Hub]):
    done = subprocess.run(command("check", fetched[0]), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "is complete" in done.stdout
    assert f"{BIOMEDCLIP} at {BIOMEDCLIP_REVISION}" in done.stdout


@pytest.mark.parametrize("name", ["open_clip_config.json", SAFETENSORS, "tokenizer.json", "text/config.json"])
def test_check_names_a_file_that_is_missing_or_changed(name: str, copy: Path):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=f"changed: {name}.*weights fetch --out"):
        check(copy)
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"changed: {name}"):
        check(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"missing: {name}"):
        check(copy)


def test_check_without_a_record_finds_what_does_not_fit_together(copy: Path, small_foundation: Path):
    (copy / "weights.json").unlink()
    found = check(copy)
    assert (found.source, found.height, found.width) == (None, 160, 160)
    assert found.parameters == sum(value.numel() for value in load_file(small_foundation / SAFETENSORS).values())
    weights = load_file(copy / SAFETENSORS)
    save_file({name: value for name, value in weights.items() if name != "visual.head.proj.weight"}, copy / SAFETENSORS)
    said = r"1 of \d+ are missing \(visual\.head\.proj\.weight\).*random weights are never used"
    with pytest.raises(UserError, match=said):
        check(copy)
    save_file(weights | {"logit_scale": torch.zeros(3)}, copy / SAFETENSORS)
    with pytest.raises(UserError, match=r"1 have another shape \(logit_scale\)"):
        check(copy)
    torch.save(weights, copy / PICKLE)
    (copy / SAFETENSORS).unlink()
    assert check(copy).weights == PICKLE
    (copy / PICKLE).unlink()
    with pytest.raises(UserError, match=r"has no weights.*weights fetch"):
        check(copy)


def test_a_flipped_byte_in_a_model_that_was_made_here_is_seen(tmp_path: Path, small_foundation: Path):
    made = shutil.copytree(small_foundation, tmp_path / "made")
    assert check(made).made == "small stand-in of BiomedCLIP's shape"
    assert "files" not in origin(made)
    content = bytearray((made / SAFETENSORS).read_bytes())
    content[-1000] ^= 255
    (made / SAFETENSORS).write_bytes(content)
    for look in (check, origin):
        with pytest.raises(UserError, match=f"is not as it was made .changed: {SAFETENSORS}"):
            look(made)
    (made / "vocab.txt").unlink()
    with pytest.raises(UserError, match=f"missing: vocab.txt; changed: {SAFETENSORS}"):
        check(made)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("text/config.json",), "text tower cannot be built offline"),
        (("tokenizer.json", "vocab.txt"), "no tokenizer"),
        (("open_clip_config.json",), "is not a model folder"),
    ],
)
def test_check_without_a_record_finds_missing_parts(names: tuple[str, ...], said: str, copy: Path):
    for name in ("weights.json", *names):
        (copy / name).unlink()
    with pytest.raises(UserError, match=said):
        check(copy)


def test_check_without_a_record_finds_weights_that_were_cut_short(copy: Path):
    (copy / "weights.json").unlink()
    whole = (copy / SAFETENSORS).read_bytes()
    (copy / SAFETENSORS).write_bytes(whole[:-100])
    with pytest.raises(UserError, match="damaged"):
        check(copy)


def test_check_without_a_record_tells_of_tokenizers_that_were_cut_and_pickles_of_more_than_weights(copy: Path):
    (copy / "weights.json").unlink()
    whole = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="tokenizer's files"):
        check(copy)
    (copy / "tokenizer.json").write_text(whole)
    torch.save({"epoch": 3, "model": load_file(copy / SAFETENSORS)}, copy / PICKLE)
    (copy / SAFETENSORS).unlink()
    with pytest.raises(UserError, match="is no file of weights"):
        check(copy)


def test_the_origin_of_fetched_weights_is_their_commit_and_changed_ones_are_not_taken(copy: Path):
    assert origin(copy) == {"name": BIOMEDCLIP, "commit": BIOMEDCLIP_REVISION}
    (copy / "vocab.txt").write_text("others")
    with pytest.raises(UserError, match=r"changed: vocab\.txt"):
        origin(copy)


def test_a_model_made_here_says_how_and_a_copied_one_is_of_unknown_origin(small_foundation: Path, copy: Path):
    assert "random" in origin(small_foundation)["weights"]
    (copy / "weights.json").unlink()
    assert origin(copy) == {"name": None}
