"""Photos in the rows of a Ray Dataset: `Cloak` and `Look`, callable classes for `ray.data.Dataset.map_batches`.

Ray reads and writes Parquet, WebDataset or files, wherever they are, so machines need no folder that all of them share.
A row goes in with a photo's bytes and comes out with those of its cloaked file, and with what became of it. Both take
`batch_format="pyarrow"`. Rows depend on the photo and the settings, up to rounding. So do those of a batch that Ray
hands out again.

Who is who is a stage of its own. `Look` gives a row for every face, `group` says whose each is, and `Cloak` gets that
table. It can be kept as a Parquet file, looked at and used again; it describes faces, so it is private.

Example:
    >>> rows = ray.data.read_parquet("photos/").map_batches(  # doctest: +SKIP
    ...     Cloak, fn_constructor_kwargs={"recipe": Recipe(objective="away")}, batch_format="pyarrow", concurrency=2
    ... )
    >>> rows.write_parquet("cloaked/")  # doctest: +SKIP
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from engine.bulk import people
from engine.bulk.calls import Whose
from engine.bulk.cloaker import Cloaker
from engine.bulk.person import Person
from engine.bulk.prepare import digest
from engine.bulk.results import Encoded
from engine.config import Detection, Output, Recipe

try:
    import pyarrow as pa
except ImportError as error:
    raise ImportError("engine.bulk.ray_data needs the extra \"ray\": pip install 'fawkes-engine[ray]'") from error

NUMBERS = pa.list_(pa.float32())


class _Worker:
    """Holds a Cloaker in a process that Ray starts. column: of the photos' bytes."""

    def __init__(
        self,
        *,
        recipe: Recipe | None = None,
        detection: Detection | None = None,
        column: str = "bytes",
        batch: int | None = None,
        devices: int | None = None,
        workers: int | None = None,
    ) -> None:
        """See `Cloaker`. column: which one holds the photos' bytes."""
        self.cloaker = Cloaker(recipe=recipe, detection=detection, batch=batch, devices=devices, workers=workers)
        self.column = column

    def photos(self, rows: pa.Table) -> list[bytes]:
        """The bytes of all rows, none for null. Raises ValueError for a column that is not there or is of others."""
        if self.column not in rows.column_names:
            raise ValueError(f"rows have no column {self.column!r}: name one of {', '.join(rows.column_names)}")
        kind = rows.schema.field(self.column).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind)):
            raise ValueError(
                f"column {self.column!r} must hold the bytes of files, but is of type {kind}: read it undecoded, for "
                "example with ray.data.read_binary_files, or read_webdataset(decoder=None)"
            )
        return [data or b"" for data in rows[self.column].to_pylist()]


class Cloak(_Worker):
    """Cloaks the photos of rows.

    Rows in: the column of bytes, and whatever else there is. Optional is `person`: a name in `people`, or a list with a
    name or null for each face. Rows out: the same, with the bytes of the cloaked file, null without one, and with
    `status`, `reason`, `notes` and `faces` as in `Encoded`. Whatever is wrong with one photo is in its row.
    """

    def __init__(
        self,
        *,
        recipe: Recipe | None = None,
        detection: Detection | None = None,
        output: Output | None = None,
        people: Mapping[str, Person] | None = None,
        faces: pa.Table | None = None,
        column: str = "bytes",
        batch: int | None = None,
        devices: int | None = None,
        workers: int | None = None,
    ) -> None:
        """recipe, detection, batch, devices, workers: as in `Cloaker`. output: as in `Cloaker.encode`.

        people: by the names that rows use. faces: what `group` gave, for rows that name nobody. Raises ValueError if a
        recipe needs to know who is who, and neither is given.
        """
        super().__init__(
            recipe=recipe, detection=detection, column=column, batch=batch, devices=devices, workers=workers
        )
        objective = self.cloaker.recipe.objective
        if objective != "away" and people is None and faces is None:
            raise ValueError(
                f'objective "{objective}" has to know who is who: give people or faces, or Recipe(objective="away")'
            )
        self._output = output or Output()
        self._people = {**(people or {}), **({} if faces is None else persons(faces))}
        self._whose = {} if faces is None else _by_photo(faces)
        shift = pa.struct([(name, pa.float64()) for name in self.cloaker.recipe.names])
        face = [("box", pa.list_(pa.float64())), ("dssim", pa.float64()), ("shift", shift), ("scale", pa.float64())]
        self._columns = {
            self.column: pa.large_binary(),
            "status": pa.string(),
            "reason": pa.string(),
            "notes": pa.list_(pa.string()),
            "faces": pa.list_(pa.struct(face)),
        }

    def __call__(self, rows: pa.Table) -> pa.Table:
        """A batch of rows, done. Usable from several threads, which share the slots."""
        photos = self.photos(rows)
        named = rows["person"].to_pylist() if "person" in rows.column_names else [None] * len(photos)
        whose: list[Whose | Encoded] = [self._whose_of(photo, name) for photo, name in zip(photos, named, strict=True)]
        pairs = [(photo, entry) for photo, entry in zip(photos, whose, strict=True) if not isinstance(entry, Encoded)]
        encoded = iter(list(self.cloaker.encode_stream(pairs, output=self._output)))
        results = [entry if isinstance(entry, Encoded) else next(encoded) for entry in whose]
        values = {
            self.column: [result.data for result in results],
            "status": [result.status for result in results],
            "reason": [result.reason for result in results],
            "notes": [list(result.notes) for result in results],
            "faces": [[asdict(face) for face in result.faces] for result in results],
        }
        for name, kind in self._columns.items():
            column = pa.array(values[name], kind)
            place = rows.column_names.index(name) if name in rows.column_names else None
            rows = rows.append_column(name, column) if place is None else rows.set_column(place, name, column)
        return rows

    def _whose_of(self, photo: bytes, name: object) -> Whose | Encoded:
        """Person in a photo, or its result if the name is not known. name: as in a row's `person`."""
        if name is None and self._whose:
            name = self._whose.get(digest(photo))
        if name is None:
            return () if self._whose else None  # a photo without a face is in no table
        names = [person if person is None else str(person) for person in (name if isinstance(name, list) else [name])]
        if unknown := [person for person in names if person is not None and person not in self._people]:
            return Encoded.failed(f"Nobody called {unknown[0]!r} is among the people that were given: add that person.")
        whose = [None if person is None else self._people[person] for person in names]
        return whose if isinstance(name, list) else whose[0]


class Look(_Worker):
    """Finds the faces of rows' photos and describes them by their embeddings.

    Rows in: as for `Cloak`. Rows out: one for each face, with the columns of its photo except the bytes. They also have
    `sha256` of the photo, `face` (its index) and `own` (its embedding by each extractor of the recipe). `identity` is
    an embedding that tells people apart, and `networks` says which networks these were. Photos without a face, or that
    cannot be read, have no row. `Cloak` says what becomes of them.
    """

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The faces of a batch of rows."""
        photos = self.photos(rows)
        seen = {(face.sha256, face.index): face for face in self.cloaker.look(photos)}
        by_photo = defaultdict(list)
        for face in seen.values():
            by_photo[face.sha256].append(face)
        places = [(place, face) for place, photo in enumerate(photos) for face in by_photo[digest(photo)]]
        table = rows.drop_columns([self.column]).take(pa.array([place for place, _ in places], pa.int64()))
        columns = {
            "sha256": pa.array([face.sha256 for _, face in places], pa.string()),
            "face": pa.array([face.index for _, face in places], pa.int32()),
            "own": pa.array([[row.tolist() for row in face.own] for _, face in places], pa.list_(NUMBERS)),
            "identity": pa.array([face.identity.tolist() for _, face in places], NUMBERS),
            "networks": pa.array([self.cloaker.named] * len(places), pa.string()),
        }
        for name, column in columns.items():
            table = table.append_column(name, column)
        return table


def group(faces: pa.Table) -> pa.Table:
    """Person of each face: the rows of `Look`, ordered by photo and face, with a `person` (`people.group`).

    A face that has no embedding of finite numbers is nobody's, null.
    """
    faces = faces.sort_by([("sha256", "ascending"), ("face", "ascending")])
    rows = [np.array(row, np.float32) for row in faces["identity"].to_pylist()]
    sound = [index for index, row in enumerate(rows) if np.isfinite(row).all()]
    names: list[str | None] = [None] * len(rows)
    if sound:
        for index, number in zip(sound, people.group(np.stack([rows[i] for i in sound])).tolist(), strict=True):
            names[index] = str(number)
    return faces.append_column("person", pa.array(names, pa.string()))


def persons(faces: pa.Table) -> dict[str, Person]:
    """The people of a table of faces that has a `person`, by name. Raises ValueError if networks differ in it."""
    networks = set(faces["networks"].to_pylist())
    if len(networks) > 1:
        raise ValueError("the faces were described by different networks: make the table anew with one recipe")
    members = defaultdict(list)
    columns = (faces[name].to_pylist() for name in ("person", "own", "identity", "sha256", "face"))
    for name, embeddings, identity, *_ in sorted(
        zip(*columns, strict=True), key=lambda row: (row[0] or "", row[3], row[4])
    ):
        described = tuple(np.array(row, np.float32) for row in (*embeddings, identity))
        if name is not None and all(np.isfinite(row).all() for row in described):
            members[name].append(described)
    by_name = {}
    for name, described in members.items():
        *embeddings, identity = people.mean_embedding(described)
        by_name[name] = Person(tuple(embeddings), identity, *networks)
    return by_name


def _by_photo(faces: pa.Table) -> dict[str, list[str | None]]:
    """People of each photo's faces, by its SHA-256."""
    by_photo: dict[str, dict[int, str | None]] = defaultdict(dict)
    columns = (faces[name].to_pylist() for name in ("sha256", "face", "person"))
    for sha256, face, person in zip(*columns, strict=True):
        by_photo[sha256][face] = person
    return {sha256: [of_face[index] for index in sorted(of_face)] for sha256, of_face in by_photo.items()}
