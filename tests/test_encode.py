"""Bytes in, bytes out: `Cloaker.encode` and its streams, beside `cloak run`, with real photos and a tiny network."""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny_cloak
from PIL import Image, ImageCms, ImageSequence
from there import there

from engine import Cloaker, Encoded, Output, Person, Recipe, WeakerWarning, cli
from engine.bulk import calls
from engine.bulk.calls import NOT_NAMED, NOT_THERE
from engine.bulk.prepare import digest, prepare
from engine.dssim import dssim_pixels
from engine.photo import read
from engine.types import Photo

RECIPE = Recipe(extractors=("tiny",), steps=2)
AWAY = replace(RECIPE, objective="away")


@pytest.fixture(scope="module")
def cloaker(tmp_path_factory: pytest.TempPathFactory) -> Cloaker:
    tiny_cloak.provide(tmp_path_factory.mktemp("weights") / "tiny")
    return Cloaker(recipe=AWAY, batch=2, workers=2)


@pytest.fixture(scope="module")
def knowing(cloaker: Cloaker) -> Cloaker:
    """One with objective "person"."""
    del cloaker
    return Cloaker(recipe=RECIPE, batch=2, workers=2)


@pytest.fixture(scope="module")
def face(photos: Path) -> Image.Image:
    with Image.open(photos / "astronaut.png") as image:
        return image.convert("RGB").crop((100, 20, 340, 260))


@pytest.fixture(scope="module")
def files(face: Image.Image) -> dict[str, bytes]:
    """One photo in many forms, and what is no photo."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    clear = face.convert("RGBA")
    clear.putalpha(Image.fromarray(np.arange(240 * 240, dtype=np.uint32).reshape(240, 240).astype(np.uint8)))
    made = {
        "turned.jpg": saved(face.rotate(90, expand=True), "JPEG", exif=exif, icc_profile=icc, quality=92),
        "clear.png": saved(clear, "PNG"),
        "grey.png": saved(face.convert("L"), "PNG"),
        "web.webp": saved(face, "WEBP", quality=90),
        "still.gif": saved(face, "GIF"),
        "wall.png": saved(Image.new("RGB", (160, 120), (90, 90, 90)), "PNG"),
        "text.jpg": b"not a picture",
        "empty.jpg": b"",
        "animated.gif": saved(face, "GIF", save_all=True, append_images=[face.rotate(5)]),
    }
    return {**made, "cut.png": made["clear.png"][:5000]}


@pytest.fixture(scope="module")
def alone(cloaker: Cloaker, files: dict[str, bytes]) -> dict[str, Encoded]:
    """What each of them comes out as."""
    return {name: cloaker.encode(data) for name, data in files.items()}


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_the_bytes_are_those_of_the_files_that_the_command_writes(
    alone: dict[str, Encoded], files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "album").mkdir()
    for name, data in files.items():
        (tmp_path / "album" / name).write_bytes(data)
    arguments = ["run", str(tmp_path / "album"), "--out", str(tmp_path / "out"), "--objective", "away"]
    assert cli.main([*arguments, "--extractors", "tiny", "--steps", "2", "--batch", "2", "--no-report"]) == cli.FAILED
    capsys.readouterr()
    assert {name: result.status for name, result in alone.items()} == {
        **dict.fromkeys(("turned.jpg", "clear.png", "grey.png", "web.webp", "still.gif"), "cloaked"),
        "wall.png": "no_face",
        **dict.fromkeys(("text.jpg", "empty.jpg", "animated.gif", "cut.png"), "failed"),
    }  # fmt: skip
    for name, result in alone.items():
        written = tmp_path / "out" / ("still.gif.png" if name == "still.gif" else name)
        assert result.data == (written.read_bytes() if written.exists() else None), name
        assert bool(result.reason) == bool(result.faces == ()) == (result.data is None)


def test_budget_and_metadata_hold_in_the_bytes(
    cloaker: Cloaker, alone: dict[str, Encoded], files: dict[str, bytes]
) -> None:
    for name in ("turned.jpg", "clear.png", "grey.png", "web.webp"):
        result = alone[name]
        assert result.data is not None
        before, after = read(files[name]), read(result.data)
        ((top, left, bottom, right),) = prepare(files[name], cloaker.detector).regions
        changed = dssim_pixels(before.pixels[top:bottom, left:right], after.pixels[top:bottom, left:right])
        assert 0.001 < changed <= RECIPE.rho
        assert result.faces[0].dssim == pytest.approx(changed)
        assert (before.format, before.grey) == (after.format, after.grey)
        assert before.alpha is None or np.array_equal(before.alpha, there(after.alpha))
    turned = alone["turned.jpg"].data
    assert turned is not None
    with Image.open(io.BytesIO(turned)) as image:
        assert image.getexif()[0x010F] == "Camera"
        assert image.getexif().get(0x0112, 1) == 1
        assert image.info["icc_profile"]


def test_another_format_and_quality(cloaker: Cloaker, alone: dict[str, Encoded], files: dict[str, bytes]) -> None:
    gif = alone["still.gif"]
    assert gif.data is not None
    assert read(gif.data).format == "PNG"
    assert "Written as PNG, since a GIF cannot hold a cloak." in gif.notes
    made = cloaker.encode(files["grey.png"], output=Output(format="jpeg", quality=95))
    assert made.data is not None
    assert read(made.data).format == "JPEG"
    steps = cloaker.usage.slot_steps
    refused = cloaker.encode(files["clear.png"], output=Output(format="jpeg"))
    assert cloaker.usage.slot_steps == steps, "it was solved and then refused"
    assert (refused.status, refused.data) == ("failed", None)
    assert "transparent" in refused.reason


@pytest.mark.usefixtures("unchecked")
def test_an_output_that_is_none_is_refused_at_the_call(cloaker: Cloaker, files: dict[str, bytes]) -> None:
    for call in (cloaker.encode, cloaker.encode_all, cloaker.encode_stream):
        with pytest.raises(TypeError, match=r"output must be an Output, as Output\(format='png'\); got 'png'"):
            call(files["grey.png"], output="png")  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["prepare", "jobs", "fit"])
def test_what_nobody_foresaw_is_that_photos_result_and_is_logged(
    stage: str,
    cloaker: Cloaker,
    alone: dict[str, Encoded],
    files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = files["clear.png"], files["grey.png"]
    where = calls if stage == "prepare" else cloaker
    work = getattr(where, stage)

    def broken(photo, *rest, **more):  # type: ignore[no-untyped-def]
        if bad == photo or digest(bad) == getattr(photo, "sha256", ""):
            raise ZeroDivisionError(stage)
        return work(photo, *rest, **more)

    monkeypatch.setattr(where, stage, broken)
    failed, last = cloaker.encode_stream([bad, good])
    assert last == alone["grey.png"]
    assert (failed.status, failed.data) == ("failed", None)
    assert failed.reason.startswith("Unexpected ZeroDivisionError at engine/")
    assert f": {stage}. It is a mistake" in failed.reason
    assert "Traceback" in caplog.text


def test_32_threads_share_a_cloaker_and_a_bad_photo_harms_nobody(
    cloaker: Cloaker, alone: dict[str, Encoded], files: dict[str, bytes]
) -> None:
    before = replace(cloaker.usage)
    names = ["grey.png", "clear.png", "cut.png", "text.jpg"] * 8
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda name: cloaker.encode(files[name]), names))
    assert together == [alone[name] for name in names]
    usage = cloaker.usage
    # One thread fills a sixteenth; 32 fill all, or fewer if a busy machine brings them one by one.
    assert (usage.worked - before.worked) / (usage.slot_steps - before.slot_steps) > 0.25
    assert list(cloaker.encode_stream(files[name] for name in names[:4])) == together[:4]


def test_a_closed_cloaker_begins_nothing(files: dict[str, bytes], cloaker: Cloaker) -> None:
    with Cloaker(recipe=AWAY, batch=2, workers=2) as closed:
        assert closed.encode(files["text.jpg"]).status == "failed"
    with pytest.raises(RuntimeError, match="closed"):
        closed.encode(files["text.jpg"])
    assert cloaker.encode(files["text.jpg"]).status == "failed"


# --- kinds of what is given ---------------------------------------------------------------------------------------


def test_of_an_iterator_that_refills_one_buffer_each_picture_counts(
    cloaker: Cloaker, knowing: Cloaker, face: Image.Image
) -> None:
    pictures = [np.asarray(face), np.asarray(face)[:, ::-1]]

    def refilled() -> Iterator[np.ndarray]:
        buffer = np.empty_like(pictures[0])
        for picture in pictures:
            buffer[:] = picture
            yield buffer

    results = cloaker.encode_all(pictures)
    assert results[0].data != results[1].data
    assert cloaker.encode_all(refilled()) == results == list(cloaker.encode_stream(refilled()))
    assert knowing.person(refilled()).to_bytes() == knowing.person(pictures).to_bytes()
    frames = io.BytesIO(saved(face, "MPO", save_all=True, append_images=[Image.fromarray(pictures[1])]))
    first, second = cloaker.cloak(ImageSequence.Iterator(Image.open(frames)))
    assert (first.status, second.status) == ("cloaked", "cloaked")
    assert not np.array_equal(there(first.image), there(second.image))


class Tensor:
    """An array of another library."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.ndim = array, array.ndim

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.array

    def __iter__(self) -> Iterator[object]:
        return iter(self.array)


def test_an_array_of_any_library_is_one_image_and_so_is_a_path_of_any_kind(
    cloaker: Cloaker, face: Image.Image, tmp_path: Path
) -> None:
    pixels = np.asarray(face)
    (expected,) = cloaker.encode_all(pixels)
    arrays: list[Any] = [jax.numpy.asarray(pixels), Tensor(pixels)]
    for made in arrays:
        assert cloaker.encode_all(made) == cloaker.encode_all([made]) == [expected]
        assert list(cloaker.encode_stream(made)) == [cloaker.encode(made)] == [expected]
    (tmp_path / "me.png").write_bytes(saved(face, "PNG"))
    path = PurePosixPath(tmp_path / "me.png")
    expected = cloaker.encode(Path(path))
    assert expected.status == "cloaked"
    assert cloaker.encode_all(path) == cloaker.encode_all([path]) == [expected]
    column: Any = Tensor(np.array([str(path), str(path)]))
    assert cloaker.encode_all(column) == [expected, expected], "of paths, as a table has them"


def test_what_is_no_photo_and_holds_none_is_refused_at_the_call(cloaker: Cloaker, files: dict[str, bytes]) -> None:
    file = io.BytesIO(files["grey.png"])
    for call in (cloaker.cloak, cloaker.stream, cloaker.encode_all, cloaker.encode_stream, cloaker.person):
        with pytest.raises(TypeError, match=r"got a BytesIO: pass its bytes, \.read\(\), or its path"):
            call(file)  # type: ignore[arg-type]
        for wrong in (None, 5):
            with pytest.raises(TypeError, match=f"photos must be .*; got a {type(wrong).__name__}$"):
                call(wrong)  # type: ignore[arg-type]
    assert "this is a BytesIO: pass its bytes" in cloaker.encode(file).reason  # type: ignore[arg-type]


# --- who is in a photo --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(photos: Path) -> dict[str, bytes]:
    """Photos of two people, apart and together."""
    with Image.open(photos / "obama.jpg") as image:
        first = image.convert("RGB").crop((0, 0, 900, 900)).resize((300, 300))
    with Image.open(photos / "biden.jpg") as image:
        second = image.convert("RGB").crop((0, 0, image.width, image.width)).resize((300, 300))
    group = Image.new("RGB", (600, 300))
    group.paste(first, (0, 0))
    group.paste(second, (300, 0))
    made = {"first": first, "again": first.rotate(4), "second": second, "group": group}
    return {name: saved(image, "PNG") for name, image in made.items()}


def test_a_person_who_is_named_gets_what_grouping_would_give(
    knowing: Cloaker, others: dict[str, bytes], files: dict[str, bytes]
) -> None:
    me = knowing.person([others["first"], others["again"]])
    grouped = knowing.encode_all([others["first"], others["second"], others["again"], files["text.jpg"]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = list(knowing.encode_stream([(others["first"], me), (others["again"], me), (files["text.jpg"], me)]))
    assert named == [grouped[0], grouped[2], grouped[3]]
    with pytest.warns(WeakerWarning, match="name the person") as said:
        unnamed = knowing.encode(others["first"])
    assert [warning.filename for warning in said] == [__file__]
    assert unnamed.data not in (None, named[0].data)
    assert NOT_NAMED in unnamed.notes
    assert named[0].notes == ()
    (pixels,) = knowing.stream([(others["first"], me)])
    assert pixels.status == "cloaked"
    assert pixels.faces[0].shift == named[0].faces[0].shift


def test_a_person_is_the_same_whatever_the_order_and_survives_being_kept(
    knowing: Cloaker, others: dict[str, bytes]
) -> None:
    me = knowing.person([others["first"], others["again"], others["group"]])
    with pytest.warns(WeakerWarning, match="given before and counted once: photo 4; give other photos"):
        again = knowing.person([others["group"], others["again"], others["first"], others["first"]])
    stored = me.to_bytes()
    assert repr(me).startswith("<Person for the networks ")
    assert len(repr(me)) < 60, "no embedding is to get into a log"
    assert again.to_bytes() == stored == Person.from_bytes(stored).to_bytes()
    assert len(stored) < 10_000
    for kept in (bytearray(stored), memoryview(stored)):
        assert Person.from_bytes(kept).to_bytes() == stored
    other = knowing.person(others["first"])
    assert {me, again, Person.from_bytes(stored), pickle.loads(pickle.dumps(me))} == {me}
    assert me != other
    assert me != replace(me, networks="0" * 64)
    assert len({me, other}) == 2
    assert me != stored
    body = stored[:-32]
    turned = bytearray(stored)
    turned[len(stored) // 2] ^= 1
    whole = [body + hashlib.sha256(body).digest() for body in (body[:-4], body[:60], body[:-4] + b"\0\0\xc0\x7f")]
    for wrong in (b"", "x", None, stored[:-4], stored + b"0000", b"x" + stored[1:], bytes(turned), *whole):
        with pytest.raises(ValueError, match="no Person"):
            Person.from_bytes(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"another version .* make it again"):
        Person.from_bytes(stored.replace(b"person 2", b"person 1"))


def test_in_a_group_the_persons_face_is_theirs_and_the_others_are_not(
    knowing: Cloaker, others: dict[str, bytes], face: Image.Image
) -> None:
    first, second = knowing.person(others["first"]), knowing.person(others["second"])
    by_first, by_second = (knowing.encode(others["group"], person=person) for person in (first, second))
    assert by_first.data is not None
    assert by_second.data is not None
    assert by_first.data != by_second.data
    shown = [prepare(others["group"], knowing.detector).faces[i].box[0] < 300 for i in range(2)]
    whose = [first if is_left else second for is_left in shown]
    both = knowing.encode(others["group"], person=whose)
    alone = knowing.encode(others["group"], person=[person if person is first else None for person in whose])
    assert alone == by_first
    assert both.data not in (by_first.data, by_second.data)
    stranger = knowing.person(saved(face, "PNG"))
    nobody = knowing.encode(others["group"], person=stranger)
    assert nobody.status == "cloaked"
    assert NOT_THERE in nobody.notes
    wrong = knowing.encode(others["group"], person=[first])
    assert (wrong.status, "has 2 faces" in wrong.reason) == ("failed", True)


def test_a_person_of_whom_nothing_sure_is_known_is_refused(
    knowing: Cloaker, others: dict[str, bytes], files: dict[str, bytes], face: Image.Image, tmp_path: Path
) -> None:
    for references, said in (
        ([others["group"]], "one face alone"),
        ([files["wall.png"]], "one face alone"),
        ([], "no photo was given"),
        ([others["first"], others["second"]], "different people"),
        ([others["first"], files["text.jpg"]], "photo 2, a photo of the person, cannot be used: .*not a picture"),
        ([others["first"], tmp_path / "gone.jpg"], "gone.jpg, a photo of the person, cannot be used"),
    ):
        with pytest.raises(ValueError, match=said):
            knowing.person(references)
    (tmp_path / "me.png").write_bytes(others["second"])
    with pytest.raises(ValueError, match="different people") as refused:
        knowing.person([others["group"], others["first"], tmp_path / "me.png"])
    assert str(refused.value) == (
        "the photos seem to show different people: of 2 with one face, no more than 1 are alike. "
        f"Like no other: {tmp_path / 'me.png'} and photo 2. "
        "Give more photos of the person, or clearer ones from the front."
    )
    with pytest.raises(ValueError, match=r"Alike are photo 1 and photo 2\. Like no other: photo 3 and photo 4\."):
        knowing.person([others["first"], others["again"], others["second"], saved(face, "PNG")])


def unchecked(photo: Photo, **fields: object) -> Photo:
    """The photo with such fields, as a caller's code makes it, which no annotation stops."""
    made = copy.copy(photo)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def test_a_photo_that_is_no_picture_harms_no_other(knowing: Cloaker, others: dict[str, bytes]) -> None:
    good = read(others["first"])
    wrong = [
        unchecked(good, pixels=good.pixels[..., 0]),
        unchecked(good, pixels=good.pixels / np.float32(255)),
        unchecked(good, pixels=good.pixels[:0]),
        unchecked(good, pixels=None),
        unchecked(good, alpha=np.zeros((3, 3), np.uint8)),
        unchecked(good, alpha=np.zeros(good.pixels.shape[:2])),
        unchecked(good, pixels=SimpleNamespace(shape=("a", None))),
        *(unchecked(good, grey=grey) for grey in (None, [True], "x")),
    ]
    results = knowing.encode_all([good, *wrong, good])
    assert [result.status for result in results] == ["cloaked", *["failed"] * len(wrong), "cloaked"]
    assert all("of a Photo must be " in result.reason for result in results[1:-1])
    assert results[0].data == results[-1].data
    me = knowing.person(good)
    with ThreadPoolExecutor(2) as pool:
        bad, fine = pool.map(lambda photo: knowing.encode(photo, person=me), [wrong[0], good])
    assert (bad.status, fine.status) == ("failed", "cloaked")


def test_a_stream_takes_one_photo_too(knowing: Cloaker, others: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(others["first"])
    pixels, path = read(others["first"]).pixels, str(tmp_path / "me.png")
    with pytest.warns(WeakerWarning):
        statuses = [
            result.status
            for results in (*map(knowing.encode_stream, (others["first"], path)), knowing.stream(pixels))
            for result in results
        ]
    assert statuses == ["cloaked"] * 3


def test_of_photos_that_say_nothing_of_the_person_the_caller_is_told(
    knowing: Cloaker, others: dict[str, bytes], files: dict[str, bytes], tmp_path: Path
) -> None:
    me = [others["first"], others["again"]]
    (tmp_path / "wall.png").write_bytes(files["wall.png"])
    with pytest.warns(WeakerWarning) as said:
        person = knowing.person([*me, tmp_path / "wall.png", others["first"], others["second"]])
    assert [(warning.filename, str(warning.message)) for warning in said] == [
        (
            __file__,
            "given before and counted once: photo 4; give other photos of the person",
        ),
        (
            __file__,
            f"no face like the person's in {tmp_path / 'wall.png'} and photo 5: they do not count, give clearer ones",
        ),
    ]
    assert person.to_bytes() == knowing.person(me).to_bytes()


def test_a_person_that_cannot_be_used_is_a_clear_error(
    knowing: Cloaker, cloaker: Cloaker, others: dict[str, bytes]
) -> None:
    me = knowing.person(others["first"])
    for nobody, kind in (
        ("me", "str"),
        (me.to_bytes(), "bytes"),
        (bytearray(3), "bytearray"),
        (3, "int"),
        ([me, 3], "int"),
    ):
        with pytest.raises(TypeError, match=rf"made by Cloaker\.person or Person\.from_bytes; got a {kind}$"):
            knowing.encode(others["first"], person=nobody)  # type: ignore[arg-type]
    once = knowing.encode(others["first"], person=(person for person in [me]))  # type: ignore[arg-type]
    assert once == knowing.encode(others["first"], person=[me])
    with pytest.raises(ValueError, match="leave the person out"):
        cloaker.encode(others["first"], person=me)
    with pytest.raises(ValueError, match="other networks"):
        knowing.encode(others["first"], person=replace(me, networks="0" * 64))


def test_results_compare_by_what_they_hold() -> None:
    assert Encoded.failed("why") == Encoded(None, "failed", "why", (), ())
