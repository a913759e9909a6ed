"""The personal report of `cloak run`: every photo, nothing that fetches or runs, and no work done twice."""

from __future__ import annotations

import base64
import io
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import tiny
import tiny_cloak
from pages import Page, assert_self_contained
from PIL import Image

from engine import cli
from engine.bulk import album, article, claims
from engine.bulk.manifest import Manifest, Row, Survey
from engine.extractors import registry
from engine.photo import from_array

NAMES = (
    b"<script>alert(1)<script>.png",
    b"<img src=x onerror=alert(1)>.png",
    b"\"><svg onload='alert(1)'>.png",
    b"two\nlines.png",
    "turned\u202egpj.png".encode(),
    b"not\xffutf8.png",
)
FACE: dict[str, object] = {
    "box": [20.0, 20.0, 40.0, 50.0],
    "dssim": 0.0061,
    "shift": {"web-incept": 1.31, "sface": 0.8},
    "scale": 1.0,
}


def pixels(seed: int, height: int = 100, width: int = 120) -> np.ndarray:
    return tiny.texture_pixels(seed, height, width, contrast=0.08).clip(10, 245)


def cloaked(before: np.ndarray) -> np.ndarray:
    """A change of 4 grey levels, up where the face is and down beside it."""
    after = before.copy()
    after[20:70, 20:40] += 4
    after[20:70, 40:60] -= 4
    return after


class Folder:
    """A run's output folder as the run leaves it, without running."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root / "photos", root / "out"
        self.root.mkdir()
        self.out.mkdir()

    def photo(self, name: str, *, status: str = "cloaked", seed: int = 0, manifest: str = "") -> Row:
        """Write a photo, its cloaked version where there is to be one, and its row."""
        source, target = self.root / name, self.out / name
        Image.fromarray(pixels(seed)).save(source)
        if status == "cloaked":
            Image.fromarray(cloaked(pixels(seed))).save(target)
        state = source.stat()
        row = Row(
            target=name,
            source=str(source),
            size=state.st_size,
            modified=state.st_mtime_ns,
            sha256=f"{seed:064x}",
            key="k",
            status=status,  # type: ignore[arg-type]
            reason="" if status == "cloaked" else f"Because of {name}.",
            written=target.stat().st_size if status == "cloaked" else 0,
            faces=[FACE] if status == "cloaked" else [],
        )
        self.put(row, manifest=manifest)
        return row

    def put(self, row: Row, *, manifest: str = "") -> None:
        with Manifest(self.out, shard=manifest) as rows:
            rows.put(row)

    def publish(self) -> list[Page]:
        """The pages, each checked to be self-contained."""
        published = album.publish(self.out, workers=2)
        assert published.report == self.out / ".cloak" / "report.html", published.reason
        return [assert_self_contained(path.read_text()) for path in self.pages()]

    def pages(self) -> list[Path]:
        return sorted((self.out / ".cloak").glob("report*.html"), key=lambda path: (len(path.name), path.name))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_what_is_not_cloaked_comes_first_with_its_reason(folder: Folder) -> None:
    for index, (name, status) in enumerate(
        [("a.png", "cloaked"), ("b.png", "no_face"), ("c.png", "failed"), ("d.png", "skipped"), ("e.png", "cloaked")]
    ):
        folder.photo(name, status=status, seed=index)
    folder.put(Row("n.txt", "n.txt", 0, 0, "", "", "skipped", "not a photo: .txt"))
    (page,) = folder.publish()
    order = [page.text.index(text) for text in ("Because of c", "Because of b", "Because of d", "a.png", "e.png")]
    assert order == sorted(order)
    assert "NOT PROTECTED" in page.text
    assert "n.txt" not in page.text
    assert "1 passed by" in page.text
    assert len(page.all("article")) == 5
    assert page.text.index("Keep this page to yourself") < page.text.index("2 cloaked")


def test_a_cloaked_photo_is_shown_with_all_that_is_known_of_it(folder: Folder) -> None:
    folder.photo("a.png")
    (page,) = folder.publish()
    assert "DSSIM 0.00610" in page.text
    assert "largest change 4 of 255" in page.text
    assert "1.31 (web-incept), 0.80 (sface)" in page.text
    for sentence in (claims.UNMEASURED, claims.PUBLISH):
        assert sentence in page.text
    for heading, sentences in claims.measured([50], 0.0061, {"web-incept": 1.31, "sface": 0.8}):
        assert heading in page.text
        assert sentences in page.text
    for limit in claims.LIMITS:
        assert limit.why in page.text
        assert limit.command in page.text
    (slider,) = page.all("input")
    assert slider["type"] == "range"
    assert slider["aria-label"]
    assert [element["viewbox"] for element in page.all("svg")] == ["0 0 120 100"] * 2
    assert {(element["x"], element["y"], element["width"], element["height"]) for element in page.all("rect")} == {
        ("20.0", "20.0", "40.0", "50.0")
    }
    assert [element["alt"] for element in page.all("img")] == [
        "a.png, original", "a.png, cloaked", "a.png, difference of cloaked and original",
    ]  # fmt: skip
    before, after, difference = (decoded(element["src"]) for element in page.all("img"))
    assert np.abs(before.astype(int) - pixels(0)).mean() < 6
    assert np.abs(after.astype(int) - cloaked(pixels(0))).mean() < 6
    assert np.abs(difference[22:68, 22:38].astype(int) - 168).mean() < 2
    assert np.abs(difference[22:68, 42:58].astype(int) - 88).mean() < 2
    assert np.abs(difference[80:].astype(int) - 128).mean() < 2
    inside, link = page.all("a")
    assert inside["href"] == "#limits"
    assert (folder.out / ".cloak" / unquote_to_bytes(link["href"]).decode()).resolve() == (
        folder.out / "a.png"
    ).resolve()


def decoded(address: str) -> np.ndarray:
    kind, _, data = address.partition(";base64,")
    assert kind == "data:image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))


def test_large_photos_are_made_small_and_their_largest_face_is_shown_closer() -> None:
    before = pixels(0, 1500, 2000)
    row = Row("a.png", "a.png", 1, 1, "5", "k", "cloaked", faces=[{**FACE, "box": [600.0, 300.0, 180.0, 200.0]}])
    shown = article.pictures(row, from_array(before), before + 8)
    assert shown.size == (2000, 1500)
    assert shown.change == 8
    assert [pair.size for pair in shown.pairs] == [(800, 600), (260, 260)]
    assert shown.pairs[1].title == "The largest face at full size"
    close = decoded(shown.pairs[1].before)
    assert np.abs(close.astype(int) - before[270:530, 560:820]).mean() < 6
    assert article.pictures(row, from_array(pixels(0, 1, 3000)), None).pairs[0].size == (800, 1)


def test_hostile_names_stay_text_in_every_place(folder: Folder) -> None:
    for index, raw in enumerate(NAMES):
        folder.photo(os.fsdecode(raw), seed=index, status="no_face" if index % 2 else "cloaked")
    (page,) = folder.publish()
    assert len(page.all("script")) == 1
    assert "alert" not in page.scripts[0]
    assert len(page.all("img")) == 3 * 3 + 3
    for shown in (
        "<script>alert(1)<script>.png",
        "<img src=x onerror=alert(1)>.png",
        "\"><svg onload='alert(1)'>.png",
        r"two\nlines.png",
        r"turned\u202egpj.png",
        r"not\xffutf8.png",
    ):
        assert shown in page.text
        assert any(shown in element["alt"] for element in page.all("img"))
    targets = {os.fsencode(folder.out) + b"/" + raw for raw in NAMES[::2]}
    links = {
        os.path.normpath(os.fsencode(folder.out / ".cloak") + b"/" + unquote_to_bytes(element["href"]))
        for element in page.all("a")
        if not element["href"].startswith("#")
    }
    assert links == targets


def test_articles_of_the_run_are_used_and_nothing_is_decoded_twice(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [folder.photo(f"{index}.png", seed=index) for index in range(3)]
    with album.Album(folder.out) as spool:
        spool.add(rows[0], from_array(pixels(0)), cloaked(pixels(0)))
    with (folder.out / ".cloak" / "report-0-of-1.spool").open("ab") as file:
        file.write(b'<article id="p-' + b"0" * 32)  # as a killed run leaves it
    with album.Album(folder.out) as spool:
        spool.add(rows[1], from_array(pixels(1)), cloaked(pixels(1)))
    read: list[str] = []
    monkeypatch.setattr(article, "read", lambda row, out, real=article.read: read.append(row.target) or real(row, out))
    folder.publish()
    assert read == ["2.png"]
    assert not list((folder.out / ".cloak").glob("*.spool"))
    before = [path.stat().st_mtime_ns for path in folder.pages()]
    folder.publish()
    assert [path.stat().st_mtime_ns for path in folder.pages()] == before, "it was written again though nothing changed"
    folder.photo("3.png", seed=3)
    (page,) = folder.publish()
    assert read == ["2.png", "3.png"]
    assert len(page.all("article")) == 4


def test_what_is_gone_or_changed_since_is_said_and_not_shown(folder: Folder) -> None:
    for index in range(4):
        folder.photo(f"{index}.png", seed=index)
    folder.publish()
    (folder.root / "0.png").unlink()
    Image.fromarray(pixels(9)).save(folder.root / "1.png")
    (folder.out / "2.png").unlink()
    (page,) = folder.publish()
    assert page.text.count("it has been moved or deleted") == 1
    assert page.text.count("The original has changed since") == 1
    assert page.text.count("The cloaked file is gone") == 1
    alts = [element["alt"] for element in page.all("img")]
    assert "0.png, original" not in alts
    assert "3.png, original" in alts


def test_many_photos_are_on_several_pages(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album, "PAGE", 2)
    for index in range(5):
        folder.photo(f"{index}.png", seed=index)
    seen: list[tuple[int, int]] = []
    album.publish(folder.out, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 5) for done in range(1, 6)]
    pages = folder.publish()
    assert [path.name for path in folder.pages()] == ["report.html", "report-2.html", "report-3.html"]
    assert [len(page.all("article")) for page in pages] == [2, 2, 1]
    assert "Photos 3 to 4 of 5" in pages[1].text
    assert {element["href"] for element in pages[1].all("a")} >= {"report.html", "report-3.html"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.pages()), "others can read the originals"
    with Manifest(folder.out) as manifest:
        for index in range(3):
            manifest.put(replace(manifest.get(f"{index}.png"), status="skipped", sha256=""))  # type: ignore[type-var]
    assert len(folder.publish()) == 1, "pages that are no longer part of it stayed"
    assert not list((folder.out / ".cloak").glob("*.part"))


@pytest.mark.parametrize("pages", [1, 2, 7, 100, 20_000])
def test_a_page_links_to_few_others_and_all_are_within_few_clicks(pages: int) -> None:
    at = {page: album._linked(page, pages) for page in range(1, pages + 1)}
    for page, linked in at.items():
        assert len(linked) <= 16
        assert linked == sorted(set(linked))
        assert {1, page, pages, max(page - 1, 1), min(page + 1, pages)} <= set(linked)
    reached, last, clicks = {1}, {1}, 0
    while len(reached) < pages:
        last = {number for page in last for number in at[page]} - reached
        reached |= last
        clicks += 1
    assert clicks <= 20


def test_many_pages_are_written_with_few_files_open(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album, "PAGE", 1)
    for index in range(60):
        folder.photo(f"{index:02d}.png", seed=index)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/dev/fd")))
    free = [number for number in range(len(used) + 60) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[40], limits[1]))
    try:
        pages = folder.publish()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(pages) == 60
    (middle,) = [page for page in pages if "page 30 of 60" in page.text]
    numbers = {
        element["href"]: element.get("rel") for element in middle.all("a") if element["href"].startswith("report")
    }
    assert numbers["report-29.html"] == "prev"
    assert numbers["report-31.html"] == "next"
    assert {"report.html", "report-20.html", "report-40.html", "report-60.html"} <= set(numbers)
    assert "report-35.html" not in numbers
    assert "\u2026" in middle.text


def test_memory_is_flat_in_the_number_of_photos(folder: Folder) -> None:
    row = folder.photo("a.png")
    taken = 0

    def rows() -> Iterator[Row]:
        nonlocal taken
        for _ in range(40):
            taken += 1
            yield row

    with ThreadPoolExecutor(2) as pool:
        for done, _ in enumerate(album._lines(rows(), folder.out, {}, pool, ahead=3), 1):
            assert taken <= done + 3


def test_the_last_of_several_runs_reports_on_all(folder: Folder) -> None:
    folder.photo("a.png", seed=1, manifest="0-of-2")
    folder.photo("b.png", seed=2, manifest="1-of-2")
    with album.Album(folder.out, shard=(1, 2)):
        waiting = album.publish(folder.out, workers=1)
        assert waiting.report is None
        assert "another run" in waiting.reason
    (page,) = folder.publish()
    assert len(page.all("article")) == 2


def test_of_two_manifests_with_one_photo_the_later_counts(folder: Folder) -> None:
    row = folder.photo("a.png", manifest="0-of-2")
    folder.put(replace(row, status="no_face", reason="Later."), manifest="")
    os.utime(folder.out / ".cloak" / "manifest.sqlite", (0, 0))  # when a file was touched says nothing of its rows
    with Survey(folder.out) as survey:
        assert [(entry.status, entry.reason) for entry in survey.rows()] == [("no_face", "Later.")]


# What follows runs the command itself, with a tiny network.


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "tiny"
    with pytest.MonkeyPatch.context() as patch:  # tests of other modules list what is registered
        patch.setattr(registry, "_registered", dict(registry._registered))
        tiny_cloak.provide(path)
        yield path


@pytest.fixture
def collection(tmp_path: Path, photos: Path, tiny_checkpoint: Path) -> Path:
    del tiny_checkpoint
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(photos / "astronaut.png") as image:
        face = image.convert("RGB").crop((100, 20, 340, 260))
    for index, name in enumerate(NAMES[:2] + NAMES[-1:]):
        frame = Image.new("RGB", (250 + index, 250), (index, 60, 90))
        frame.paste(face, (5, 5))
        frame.save(os.fsencode(folder) + b"/" + name)
    Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(folder / "wall.png")
    (folder / "text.jpg").write_text("not a picture")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    cli.main(["run", *map(str, arguments), "--extractors", "tiny", "--steps", "2", "--batch", "2", "--json"])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_run_writes_the_report_and_decodes_no_photo_for_it(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(article, "read", lambda row, out, real=article.read: read.append(row.target) or real(row, out))
    summary = call(capsys, collection, "--out", tmp_path / "out")
    assert summary["counts"] == {"cloaked": 3, "no_face": 1, "skipped": 0, "failed": 1}
    assert summary["report"] == str(tmp_path / "out" / ".cloak" / "report.html")
    assert read == ["text.jpg"]
    page = assert_self_contained(Path(summary["report"]).read_text())
    assert [element["class"].split()[-1] for element in page.all("article")] == ["failed", "no_face", *["cloaked"] * 3]
    assert r"not\xffutf8.png" in page.text
    assert claims.UNMEASURED in page.text

    again = call(capsys, collection, "--out", tmp_path / "out")
    assert again["earlier"]["cloaked"] == 3, "a name that is no UTF-8 was done again"
    assert again["report"] == summary["report"]
    assert (
        cli.main(["run", str(collection), "--out", str(tmp_path / "out"), "--extractors", "tiny", "--steps", "2"])
        == cli.FAILED
    )
    assert summary["report"] in capsys.readouterr().out

    without = call(capsys, collection, "--out", tmp_path / "out", "--no-report")
    assert without["report"] is None
    assert without["unreported"] == ""
    assert not list((tmp_path / "out" / ".cloak").glob("report*.html")), "the originals are still shown"


def test_shards_end_in_one_report(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in ("0/2", "1/2"):
        summary = call(capsys, collection, "--out", tmp_path / "out", "--shard", shard)
    assert len(Page(Path(summary["report"]).read_text()).all("article")) == 5


def test_a_report_that_cannot_be_written_is_said_and_does_no_harm(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (collection / "text.jpg").unlink()
    monkeypatch.setattr(album, "_put", full)
    arguments = ["run", str(collection), "--out", str(tmp_path / "out"), "--extractors", "tiny", "--steps", "2"]
    assert cli.main(arguments) == cli.OK
    assert "No report: it could not be written ([Errno 28] No space left" in capsys.readouterr().out
    monkeypatch.undo()
    assert call(capsys, collection, "--out", tmp_path / "out")["report"]


def test_a_browser_runs_its_slider_and_nothing_else(folder: Folder, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    for index, raw in enumerate(NAMES):
        folder.photo(os.fsdecode(raw), seed=index)
    folder.publish()
    shown = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}",
         "--virtual-time-budget=2000", "--dump-dom", (folder.out / ".cloak" / "report.html").as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    page = Page(shown.stdout.decode())
    assert page.all("html")[0]["class"] == "js", "the policy forbids the page's own script"
    assert len(page.all("img")) == 3 * len(NAMES)
    assert len(page.all("script")) == 1
