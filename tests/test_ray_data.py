"""engine.bulk.ray_data and the pipelines of examples/, on a Ray cluster of two nodes here, with a tiny network."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_cloak
import tiny_package
from conftest import REPOSITORY
from PIL import Image
from test_readme import documented

from engine import Cloaker, Person, Recipe

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ray_data = pytest.importorskip("engine.bulk.ray_data")

AWAY = Recipe(extractors=("tiny",), steps=1, objective="away")
PERSON = Recipe(extractors=("tiny",), steps=1)
COUNT = 10
SETTINGS = ["--extractors", "tiny", "--steps", "1"]


def saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network, and a package that brings it."""
    folder = tmp_path_factory.mktemp("ray")
    tiny_package.install(folder)
    tiny_cloak.provide(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def faces(photos: Path, home: Path) -> list[bytes]:
    """Different photos of one face."""
    del home
    with Image.open(photos / "astronaut.png") as image:
        face = image.convert("RGB").crop((100, 20, 340, 260))
    frames = [Image.new("RGB", (250 + index, 250), (index, 60, 90)) for index in range(COUNT)]
    for frame in frames:
        frame.paste(face, (5, 5))
    return [saved(frame) for frame in frames]


@pytest.fixture(scope="module")
def album(photos: Path, home: Path) -> dict[str, bytes]:
    """Two photos each of two people, one of both, one of nobody, and what is no photo."""
    del home
    with Image.open(photos / "obama.jpg") as image:
        first = image.convert("RGB").crop((0, 0, 900, 900)).resize((300, 300))
    with Image.open(photos / "biden.jpg") as image:
        second = image.convert("RGB").crop((0, 0, image.width, image.width)).resize((300, 300))
    both = Image.new("RGB", (600, 300))
    both.paste(first, (0, 0))
    both.paste(second, (300, 0))
    pictures = {"a1": first, "a2": first.rotate(4), "b1": second, "b2": second.rotate(4), "both": both}
    pictures["wall"] = Image.new("RGB", (160, 120), (90, 90, 90))
    return {**{f"{name}.png": saved(picture) for name, picture in pictures.items()}, "text.png": b"no picture"}


@pytest.fixture(scope="module")
def expected(faces: list[bytes]) -> list[bytes]:
    """What they come out as."""
    with Cloaker(recipe=AWAY) as cloaker:
        written = [result.data for result in cloaker.encode_stream(faces)]
    assert None not in written
    return [data for data in written if data is not None]


@pytest.fixture(scope="module")
def expected_of_workers(home: Path, faces: list[bytes]) -> list[bytes]:
    """The same from a process like Ray's workers: with one device and other flags of XLA, last digits differ."""
    code = (
        "import pickle, sys; from engine import Cloaker, Recipe\n"
        "if __name__ == '__main__':\n"
        "    faces, recipe = pickle.load(sys.stdin.buffer)\n"
        "    with Cloaker(recipe=recipe) as cloaker:\n"
        "        pickle.dump([one.data for one in cloaker.encode_stream(faces)], sys.stdout.buffer)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=pickle.dumps((faces, AWAY)),
        env=tiny_package.environment(home),
        stdout=subprocess.PIPE,
        check=True,
    )
    return pickle.loads(done.stdout)


# --- a batch of rows ----------------------------------------------------------------------------------------------


def test_rows_come_out_as_they_went_in_with_what_became_of_them(faces: list[bytes], expected: list[bytes]) -> None:
    rows = pa.table({"id": [1, 2, 3, 4], "bytes": [faces[0], b"no picture", None, faces[1]], "faces": ["old"] * 4})
    done = ray_data.Cloak(recipe=AWAY)(rows)
    assert done.column_names == ["id", "bytes", "faces", "status", "reason", "notes"]
    records = done.to_pylist()
    assert [row["id"] for row in records] == [1, 2, 3, 4]
    assert [row["status"] for row in records] == ["cloaked", "failed", "failed", "cloaked"]
    assert [row["bytes"] for row in records] == [expected[0], None, None, expected[1]]
    assert "not a picture" in records[1]["reason"]
    assert 0 < records[0]["faces"][0]["dssim"] <= AWAY.rho
    assert records[0]["faces"][0]["shift"]["tiny"] > 0
    none = ray_data.Cloak(recipe=AWAY)(rows.slice(1, 1))
    assert none.schema == done.schema, "a batch without any cloaked photo would not fit the others"
    assert ray_data.Cloak(recipe=AWAY)(rows.slice(0, 0)).schema == done.schema


def test_a_column_that_is_not_of_bytes_is_named(faces: list[bytes]) -> None:
    worker = ray_data.Cloak(recipe=AWAY)
    with pytest.raises(ValueError, match="no column 'bytes': name one of jpg"):
        worker(pa.table({"jpg": [faces[0]]}))
    with pytest.raises(ValueError, match="decoder=None"):
        worker(pa.table({"bytes": [[1, 2]]}))
    with pytest.raises(ValueError, match="give people or faces"):
        ray_data.Cloak(recipe=PERSON)


def test_people_by_name_and_by_a_table_of_faces_kept_as_parquet(album: dict[str, bytes], tmp_path: Path) -> None:
    rows = pa.table({"path": list(album), "bytes": list(album.values())})
    seen = ray_data.Look(recipe=PERSON)(rows)
    assert seen.column_names == ["path", "sha256", "face", "own", "identity", "networks"]
    pq.write_table(ray_data.group(seen), tmp_path / "faces.parquet")
    table = pq.read_table(tmp_path / "faces.parquet")
    whose: dict[str, set[str]] = {}
    for row in table.to_pylist():
        whose.setdefault(row["path"], set()).add(row["person"])
    assert whose["a1.png"] == whose["a2.png"] != whose["b1.png"] == whose["b2.png"]
    assert whose["both.png"] == whose["a1.png"] | whose["b1.png"]
    assert set(whose) == {name for name in album if name not in ("wall.png", "text.png")}
    assert ray_data.group(seen.take([5, 4, 3, 2, 1, 0])).equals(table)
    by_faces = ray_data.Cloak(recipe=PERSON, faces=table)(rows).to_pylist()
    assert [row["status"] for row in by_faces] == ["cloaked"] * 5 + ["no_face", "failed"]
    # A worker that is told the names by rows does the same.
    people = ray_data.persons(table)
    assert all(isinstance(person, Person) for person in people.values())
    named = rows.slice(0, 4).append_column("person", pa.array([next(iter(whose[name])) for name in list(album)[:4]]))
    by_rows = ray_data.Cloak(recipe=PERSON, people=people)(named).to_pylist()
    assert [row["bytes"] for row in by_rows] == [row["bytes"] for row in by_faces[:4]]
    strange = ray_data.Cloak(recipe=PERSON, people=people)(named.slice(0, 1).set_column(2, "person", pa.array(["x"])))
    assert strange["status"].to_pylist() == ["failed"]
    assert "Nobody called 'x'" in strange["reason"][0].as_py()


# --- the pipelines ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(home: Path) -> Iterator[Callable[..., str]]:
    """Runs a Python program that knows "tiny" on a cluster of two nodes; returns what it printed."""
    environment = tiny_package.environment(home, REPOSITORY / "examples")
    nodes = [sys.executable, str(REPOSITORY / "tests" / "two_nodes.py")]
    with subprocess.Popen(nodes, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        assert address, "the cluster did not start"

        def begin(*arguments: object) -> str:
            command = [sys.executable, *map(str, arguments)]
            done = subprocess.run(
                command, cwd=home, env={**environment, "RAY_ADDRESS": address}, text=True, capture_output=True
            )
            assert done.returncode == 0, done.stderr[-5000:]
            return done.stdout

        yield begin
        cluster.stdin.close()


KILLED = """
import os, signal, sys
import ray_parquet

class Killed(ray_parquet.Cloak):
    mark = sys.argv.pop()

    def __call__(self, rows):
        done = super().__call__(rows)
        try:
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return done
        os.kill(os.getpid(), signal.SIGKILL)

ray_parquet.Cloak = Killed
ray_parquet.main()
"""


def test_parquet_to_parquet_with_a_worker_killed_in_the_middle_loses_and_doubles_nothing(
    home: Path, start: Callable[..., str], faces: list[bytes], expected_of_workers: list[bytes]
) -> None:
    ((source, out, *more),) = documented("python examples/ray_parquet.py ")
    (home / source).mkdir()
    for first in range(0, COUNT, 2):
        pictures = [*faces[first : first + 2], b"no picture"]
        pq.write_table(
            pa.table({"id": [first, first + 1, -first - 1], "bytes": pictures}), home / source / f"{first}.parquet"
        )
    arguments = [source, out, *more, *SETTINGS, "--rows", "3"]
    said = start("-c", KILLED, *arguments, home / "killed")
    assert (home / "killed").exists(), "no worker was killed"
    assert set(said.splitlines()) >= {f"cloaked {COUNT}", f"failed {COUNT // 2}"}
    written = {row["id"]: row["bytes"] for row in pq.read_table(home / out).to_pylist()}
    bad = dict.fromkeys(range(-1, -COUNT, -2))
    assert written == {**dict(enumerate(expected_of_workers)), **bad}
    assert pq.read_table(home / out).num_rows == len(written)


def test_webdataset_to_webdataset(
    home: Path, start: Callable[..., str], faces: list[bytes], expected_of_workers: list[bytes]
) -> None:
    ((source, out, *suffix),) = documented("python examples/ray_webdataset.py ")
    (home / source).mkdir()
    with tarfile.open(home / source / "0.tar", "w") as shard:
        for key, data in enumerate([*faces[:3], b"no picture"]):
            for kind, content in (("jpg", data), ("txt", f"text {key}".encode())):
                entry = tarfile.TarInfo(f"{key:03}.{kind}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    start(REPOSITORY / "examples" / "ray_webdataset.py", source, out, *suffix, *SETTINGS)
    contents: dict[str, bytes] = {}
    for path in (home / out).rglob("*.tar"):
        with tarfile.open(path) as shard:
            for entry in shard:
                assert entry.name not in contents
                content = shard.extractfile(entry)
                assert content is not None
                contents[entry.name] = content.read()
    assert {name: data for name, data in contents.items() if name.endswith("jpg")} == {
        f"{key:03}.jpg": data for key, data in enumerate(expected_of_workers[:3])
    }
    assert {contents[f"{key:03}.txt"] for key in range(4)} == {f"text {key}".encode() for key in range(4)}
    said = [json.loads(contents[f"{key:03}.cloak.json"]) for key in range(4)]
    assert [record["status"] for record in said] == ["cloaked"] * 3 + ["failed"]
    assert said[0]["faces"][0]["dssim"] <= AWAY.rho


def test_folder_to_folder_with_who_is_who_kept_and_used_again(
    home: Path, start: Callable[..., str], album: dict[str, bytes]
) -> None:
    (source, out), (same, again, *faces) = documented("python examples/ray_folder.py ")
    assert same == source
    (home / source / "more").mkdir(parents=True)
    for name, data in album.items():
        (home / source / ("more" if name.startswith("b") else "") / name).write_bytes(data)
    script = REPOSITORY / "examples" / "ray_folder.py"
    start(script, source, out, *SETTINGS)
    people = {}
    for row in pq.read_table(home / out / "faces.parquet").to_pylist():
        people.setdefault(row["person"], set()).add(Path(row["path"]).name)
    assert sorted(map(sorted, people.values())) == [["a1.png", "a2.png", "both.png"], ["b1.png", "b2.png", "both.png"]]
    written = files(home / out / "photos")
    assert set(written) == {"a1.png", "a2.png", "more/b1.png", "more/b2.png", "more/both.png"}
    said = {Path(row["path"]).name: row["status"] for row in pq.read_table(home / out / "results").to_pylist()}
    assert said == {**dict.fromkeys(album, "cloaked"), "wall.png": "no_face", "text.png": "failed"}
    start(script, source, again, *faces, *SETTINGS)
    assert files(home / again / "photos") == written
    assert not (home / again / "seen").exists()
    with Cloaker(recipe=AWAY) as cloaker:
        assert cloaker.encode(album["a1.png"]).data != written["a1.png"], "it was not moved from its person"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
