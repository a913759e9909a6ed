"""Every preset on people who are textures, with cloaks that are another picture or none at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import fake_study
import numpy as np
import pytest
import tiny_cloak
from fake_study import ABOUT, Seer, rows_of
from matplotlib.figure import Figure
from PIL import Image

from engine.bulk.prepare import prepare
from engine.config import Recipe
from engine.evaluate.dataset import People, Person
from engine.evaluate.presets import Findings, common, oblivious, quality, space, sybil, verification
from engine.evaluate.presets.catalogue import PRESETS
from engine.evaluate.purification import PURIFICATIONS
from engine.evaluate.study import CloakSet
from engine.evaluate.trackers import HEADS
from engine.extractors import embed_batch, load, registry

ELSEWHERE = ("quality", "sybil", "scratch", "adaptive", "detection", "services", "gallery")
RUN_HERE = [name for name in PRESETS if name not in ELSEWHERE]
"""Those that need no face in the photos, and no service; test_presets_training, test_services and
test_galleries have the others."""
ROW = {"tracker", "part", "protection", "protection_low", "protection_high", "floor", "others", "others_floor"}


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered ones, and a head for the linear one that takes no time: it is not what is tested here."""
    monkeypatch.setitem(HEADS, "linear head", HEADS["nearest centroid"])
    monkeypatch.setattr(registry, "available", lambda: ("alpha", "beta"))
    monkeypatch.setattr(registry, "about", lambda name: ABOUT[name])


def drawn(figure: Figure, folder: Path) -> str:
    """The figure's SVG, which has to come out without a warning."""
    figure.savefig(folder / "figure.svg")
    return (folder / "figure.svg").read_text()


@pytest.mark.parametrize("name", RUN_HERE)
def test_cloaks_that_are_another_picture_protect_wholly(name: str, tmp_path: Path) -> None:
    made = fake_study.study(tmp_path)
    preset = PRESETS[name]
    findings = preset.run(made)
    assert {wanted.label for wanted in preset.cloaks(made)} == set(made.made)
    assert preset.embeddings(made) >= 0
    assert preset.seconds(made) > 0
    _well_formed(findings, tmp_path)
    if name == "space":
        return
    for row in rows_of(findings):
        assert set(row) >= ROW
        assert row["dssim_max"] == pytest.approx(made.recipe.rho / 2, abs=0.01)
        assert row["floor"] == 0
        if row.get("leaked", 0) == 0 and row.get("labels", 9) > 2 and row.get("purification") != "blur, sigma 2":
            assert row["protection"] > 0.6, row
    assert any(row["part"] == "held-out" for row in findings.rows)
    assert "floor" in " ".join(findings.sentences)


@pytest.mark.parametrize("name", RUN_HERE)
def test_no_change_scores_like_the_floor(name: str, tmp_path: Path) -> None:
    made = fake_study.study(tmp_path, change=lambda pixels, wanted: pixels)
    findings = PRESETS[name].run(made)
    for row in findings.rows:
        if name == "space":
            assert row["shift_mean"] == 0
            assert row["astray"] == row["astray_floor"]
        else:
            assert row["protection"] == row["floor"]
            assert row["others"] == row["others_floor"]


def _well_formed(findings: Findings, folder: Path) -> None:
    keys = [list(row) for row in findings.rows]
    assert all(row_keys == keys[0] for row_keys in keys)
    json.dumps(findings.rows, allow_nan=False)
    assert findings.sentences
    assert findings.deviations
    assert not any("nan" in said.replace("(nan)", "nan").split() for said in findings.sentences)
    assert isinstance(findings.figure, Figure)
    assert "<svg" in drawn(findings.figure, folder)


def test_the_catalogue_has_every_preset_once_with_the_defaults_that_were_agreed() -> None:
    assert all(name == preset.name for name, preset in PRESETS.items())
    default = {name for name, preset in PRESETS.items() if preset.default}
    assert default >= {"protection", "space", "quality", "purification"}
    assert not default & {"budget", "transfer", "sybil", "labels", "leaked", "oblivious"}


def test_protection_has_every_tracker_those_that_took_part_first(tmp_path: Path) -> None:
    rows = PRESETS["protection"].run(fake_study.study(tmp_path)).rows
    assert len(rows) == 3 * 3
    assert [row["part"] for row in rows] == ["in"] * 3 + ["held-out"] * 6


def test_presets_share_their_cloaks(tmp_path: Path) -> None:
    made = fake_study.study(tmp_path)
    labels = {name: {wanted.label for wanted in PRESETS[name].cloaks(made)} for name in PRESETS if name != "services"}
    default = made.wanted().label
    assert all(default in sets_of_preset for sets_of_preset in labels.values())
    assert len(labels["budget"] & labels["transfer"]) == 1
    assert {wanted.people for wanted in PRESETS["budget"].cloaks(made)} == {
        wanted.people for wanted in PRESETS["transfer"].cloaks(made)
    }


def test_a_larger_budget_protects_more_where_cloaks_are_larger(tmp_path: Path) -> None:
    def change(pixels: np.ndarray, wanted: CloakSet) -> np.ndarray:
        """Towards the mirrored negative by a share that grows with the budget."""
        share = wanted.recipe.rho / 0.017
        return np.rint((1 - share) * pixels + share * fake_study.mirrored(pixels, wanted)).astype(np.uint8)

    rows = PRESETS["budget"].run(fake_study.study(tmp_path, change=change)).rows
    means = [common.mean(common.where(rows, rho=rho)) for rho in (0.003, 0.007, 0.017)]
    assert means[0] == 0
    assert means[0] < means[2]


def test_leaked_photos_take_protection_back_to_the_floor(tmp_path: Path) -> None:
    rows = PRESETS["leaked"].run(fake_study.study(tmp_path)).rows
    for row in common.where(rows, leaked=1.0):
        assert row["protection"] == row["floor"]
        assert row["leaked_measured"] == 1
    nearest = [common.mean(common.where(rows, leaked=share, head="1-NN")) for share in (0.0, 0.25, 1.0)]
    assert nearest[0] > nearest[1] > nearest[2]


def test_a_share_that_is_no_whole_photo_leaks_on_average(tmp_path: Path) -> None:
    users = fake_study.people(tmp_path, users=2, others=1, public=0).users
    cloaked: dict[Path, Path | None] = {
        photo: photo.with_suffix(".cloaked") for user in users for photo in user.scraped
    }
    hidden = users[0].scraped[0]
    cloaked[hidden] = None
    random = np.random.default_rng(0)
    counts = []
    for _ in range(400):
        shown = common.leaked(users, cloaked, 0.25, random)
        assert shown[hidden] is None, "a photo that was never published cannot leak"
        counts.append(len(cloaked) - len(shown))
    assert np.mean(counts) == pytest.approx(0.25 * 5, abs=0.12)
    assert cloaked[hidden] is None
    assert len(cloaked) == 6


def test_labels_go_as_far_as_there_are_people(tmp_path: Path) -> None:
    rows = rows_of(PRESETS["labels"].run(fake_study.study(tmp_path, others=4)))
    assert sorted({row["labels"] for row in rows}) == [2, 3, 4, 5]
    assert all(row["other_people"] == row["labels"] - 1 for row in rows)


def test_transfer_has_every_pair_and_frames_those_that_made_the_cloaks(tmp_path: Path) -> None:
    findings = PRESETS["transfer"].run(fake_study.study(tmp_path))
    assert {(row["user"], row["recogniser"]) for row in findings.rows} == {
        (user, tracker) for user in ("alpha", "beta") for tracker in ("alpha", "beta", "installed")
    }
    for row in findings.rows:
        assert (row["part"] == "in") == (row["user"] == row["recogniser"])
    assert any("robust" in said for said in findings.sentences)


def test_oblivious_has_held_out_recognisers_alone_the_least_accurate_first(tmp_path: Path) -> None:
    coarse = Seer("coarse", (), 2, noise=0.3)
    made = fake_study.study(tmp_path, recognisers=(Seer("alpha", ("alpha",)), Seer("beta", ("beta",)), coarse))
    rows = rows_of(PRESETS["oblivious"].run(made))
    assert [row["recogniser"] for row in rows] == ["coarse"] * 3 + ["beta"] * 3
    assert rows[0]["auc"] < rows[-1]["auc"] <= 1
    assert rows[0]["lfw_pairs_auc"] == oblivious.UNKNOWN
    assert rows[-1]["lfw_pairs_auc"] == ABOUT["beta"]["metric"]["lfw_pairs_auc"]


def test_oblivious_without_anything_held_out_says_so(tmp_path: Path) -> None:
    findings = PRESETS["oblivious"].run(fake_study.study(tmp_path, recognisers=(Seer("alpha", ("alpha",)),)))
    assert not findings.rows
    assert findings.figure is None
    assert "held out" in findings.sentences[0]


def test_auc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(1)
    rows, persons = random.normal(size=(14, 3)), np.repeat(np.arange(7), 2)
    pairs = [(i, j) for i in range(14) for j in range(i)]
    distance = {pair: np.linalg.norm(rows[pair[0]] - rows[pair[1]]) for pair in pairs}
    same = [pair for pair in pairs if persons[pair[0]] == persons[pair[1]]]
    different = [pair for pair in pairs if persons[pair[0]] != persons[pair[1]]]
    expected = np.mean([distance[a] < distance[b] for a in same for b in different])
    assert verification.pairs(rows, persons).auc == pytest.approx(expected)
    assert math.isnan(verification.pairs(rows, np.zeros(14, int)).auc)


def test_space_says_how_far_and_whose_place(tmp_path: Path) -> None:
    findings = PRESETS["space"].run(fake_study.study(tmp_path))
    assert [row["recogniser"] for row in findings.rows] == ["alpha", "beta", "installed"]
    for row in rows_of(findings):
        assert row["astray_floor"] == 0
        assert row["astray"] > 0.6
        assert row["shift_relative"] > 0.5
    assert any("No robust extractor" in said for said in findings.sentences)


def test_space_shows_a_robust_extractor_where_there_is_one(tmp_path: Path) -> None:
    made = fake_study.study(tmp_path, recognisers=(Seer("alpha", ("alpha",)), Seer("sturdy net", ("sturdy",))))
    findings = PRESETS["space"].run(made)
    assert any(said.startswith("Robust extractors (sturdy net)") for said in findings.sentences)


def test_the_plane_is_pca_and_flat_clouds_have_one() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(50, 6)) * [9, 4, 1, 0.1, 0.1, 0.1] + 3
    middle, plane = space.axes_of(rows)
    _, vectors = np.linalg.eigh(np.cov(rows.T))
    np.testing.assert_allclose(middle, rows.mean(0))
    np.testing.assert_allclose(np.abs(plane.T @ vectors[:, ::-1][:, :2]), np.eye(2), atol=1e-6)
    for flat in (np.ones((4, 3)), np.ones((1, 3)), np.arange(4.0)[:, None]):
        _, plane = space.axes_of(flat)
        assert plane.shape == (flat.shape[1], 2)
        assert np.isfinite(plane).all()


def test_purification_reports_the_trackers_accuracy_beside(tmp_path: Path) -> None:
    findings = PRESETS["purification"].run(fake_study.study(tmp_path))
    names = list(dict.fromkeys(row["purification"] for row in findings.rows))
    assert names == ["nothing", *PURIFICATIONS]
    assert all(0 <= row["others"] <= 1 for row in rows_of(findings))
    assert len(list((tmp_path / "out" / "copies").iterdir())) == len(PURIFICATIONS)


# Quality and Sybil accounts need faces.


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> tuple[Path, People]:
    """A tiny network and people with real faces: the samples, and the same at other sizes."""
    folder = tmp_path_factory.mktemp("portraits")
    tiny_cloak.provide(folder / "tiny")

    def shots(name: str, sample: str, sizes: tuple[int, ...]) -> list[Path]:
        (folder / name).mkdir()
        with Image.open(photos / sample) as image:
            for size in sizes:
                image.convert("RGB").resize((size, size * image.height // image.width)).save(
                    folder / name / f"{size}.png"
                )
        return [folder / name / f"{size}.png" for size in sizes]

    users, stranger, public = (
        shots("user", "astronaut.png", (300, 340, 380)),
        shots("other", "biden.jpg", (300, 330)),
        shots("public", "obama.jpg", (300, 320)),
    )
    return folder, People(
        users=(Person("user", tuple(users[:2]), tuple(users[2:])),),
        others=(Person("other", tuple(stranger[:1]), tuple(stranger[1:])),),
        public=(Person("public", tuple(public[:1]), tuple(public[1:])),),
    )


@pytest.fixture
def faces(portraits: tuple[Path, People], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_study.FakeStudy:
    """A study of those people. The cloaks that are judged are noise; fake accounts are solved on the tiny network."""
    monkeypatch.undo()  # the registry is the real one
    monkeypatch.setitem(HEADS, "linear head", HEADS["nearest centroid"])
    _, people = portraits

    def noise(pixels: np.ndarray, wanted: CloakSet) -> np.ndarray:
        return (pixels + np.random.default_rng(0).integers(-3, 4, pixels.shape)).clip(0, 255).astype(np.uint8)

    made = fake_study.FakeStudy(
        people,
        tmp_path / "out",
        Recipe(extractors=("tiny",), steps=10, jitter=0.0),
        recognisers=(Seer("tiny", ("tiny",)), Seer("other eyes")),
    )
    made.change, made.made = noise, []
    return made


def test_quality_is_of_the_files(faces: fake_study.FakeStudy, tmp_path: Path) -> None:
    findings = PRESETS["quality"].run(faces)
    _well_formed(findings, tmp_path)
    by_name = {row["measure"]: row for row in rows_of(findings)}
    measured = [faces.dssim(photo, file) for photo, file in faces.cloaks(faces.wanted()).files.items() if file]
    assert by_name["DSSIM"]["worst"] == pytest.approx(max(measured))
    assert by_name["DSSIM"]["mean"] == pytest.approx(np.mean(measured))
    assert by_name["RMS change"]["mean"] == pytest.approx(2, abs=0.1)
    assert by_name["largest change"]["worst"] == 3
    assert by_name["PSNR"]["worst"] <= by_name["PSNR"]["median"]
    assert "LPIPS" in findings.deviations[0]


def test_quality_measures_are_those_of_their_names() -> None:
    before = np.full((20, 20, 3), 100, np.uint8)
    after = before.copy()
    after[3, 4, 1] += 30
    figures = quality.measured(before, after)
    assert figures["largest"] == 30
    assert figures["l2"] == pytest.approx(30 / 255)
    assert figures["rms"] == pytest.approx(30 / 1200**0.5)
    assert figures["psnr"] == pytest.approx(10 * np.log10(255**2 / (900 / 1200)))
    same = quality.measured(before, before)
    assert (same["dssim"], same["psnr"]) == (0, math.inf)


def test_fake_accounts_look_like_the_user_within_the_budget_and_are_made_once(
    faces: fake_study.FakeStudy, tmp_path: Path
) -> None:
    findings = PRESETS["sybil"].run(faces)
    _well_formed(findings, tmp_path)
    assert {row["fake account"] for row in findings.rows} == {sybil.NONE, sybil.CLEAN, sybil.CLOAKED}
    assert all(0 < row["fake_dssim_max"] <= faces.recipe.rho for row in rows_of(findings))
    for row in common.where(findings.rows, leaked=1.0, **{"fake account": sybil.NONE}):
        assert row["protection"] == row["floor"]
    written = {path: path.stat().st_mtime_ns for path in (faces.out / "sybil").rglob("cloaked/*.png")}
    assert len(written) == 2
    (goal,) = sybil.clean_means(faces, faces.people.users)
    (fake,) = sybil.decoys(faces)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    canvases = [prepare(path, faces.detector).cuts[0].canvas for path in (*fake.files, *fake.files.values())]
    (goal,) = goal
    distance = np.linalg.norm(np.asarray(embed_batch(load("tiny"), np.stack(canvases))) - goal[None], axis=1)
    assert (distance[2:] < distance[:2] - 0.1).all(), "the cloaked photos are no nearer to the user"


def test_fake_accounts_need_a_public(tmp_path: Path) -> None:
    made = fake_study.study(tmp_path, public=1)
    with pytest.raises(ValueError, match="public"):
        PRESETS["sybil"].run(made)
