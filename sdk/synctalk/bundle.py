"""Bundles (``*.avatar``): reading them with distrust, and writing them whole or not at all.

A bundle is a folder, or the same in one zip without compression; ``docs/formats.md`` lists its members and tensors.
Nothing in it is executed or unpickled, and nothing is used before its name, size, sha256 and shape are checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from synctalk.errors import BackendError, BundleError
from synctalk.manifest import AGAIN, MANIFEST, VERSION, FileEntry, Frame, Manifest, Placement, unreadable
from synctalk.spec import PLANES, Spec, UpsamplerSpec

__all__ = [
    "MEMBERS",
    "OPTIONAL_MEMBERS",
    "SIGNATURE",
    "Bundle",
    "FileEntry",
    "Finding",
    "Frame",
    "Manifest",
    "Placement",
    "open_bundle",
    "pack_tensors",
    "packed_zip",
    "read_members",
    "tensor_ranges",
    "tensor_shapes",
    "upsampler_design",
    "verify_bundle",
    "write_bundle",
    "write_members",
]

Tensors = Mapping[str, NDArray[Any]]

TENSORS = "tensors.safetensors"
OPTIONAL = {"expression.range", "field.byte_reach", "field.ranges", "upsampler.ranges"}
"""Tensors that a bundle may do without."""
MEMBERS = (TENSORS, "audio.onnx", "head.onnx", "colour.onnx", "plate.mp4", "background.png")
"""What a bundle holds beside its manifest; all are required."""
OPTIONAL_MEMBERS = ("head.fp16.onnx", "upsampler.onnx")
"""What it may hold; others are refused."""
SIGNATURE = "signature.json"
"""May be beside them (``synctalk.signing``); the manifest, which it signs, does not list it."""

_MAX_MANIFEST_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 1 << 30
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 1


# --- tensors ----------------------------------------------------------------------------------------------------------


def tensor_shapes(spec: Spec, n_track: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor of a bundle; those of ``OPTIONAL`` may be missing. ``n_track``: frames of the plate and of the track."""
    design = spec.field
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for plane in range(len(PLANES)):
        for i, level in enumerate(design.grid.levels):
            n = level.n_nodes
            shapes[f"field.plane.{plane}.{i}"] = ("float16", (design.grid.n_channels, n, n))
    weights = {
        "attention": design.attention_shapes,
        "density": design.density_shapes,
        "colour": design.colour_shapes,
    }
    for network, layers in weights.items():
        shapes |= {f"field.{network}.{i}": ("float32", shape) for i, shape in enumerate(layers)}
    if spec.upsampler is not None:
        convolutions, modulation = spec.upsampler.shapes, spec.upsampler.modulation_shapes
        shapes |= {f"upsampler.{i}": ("float32", shape) for i, shape in enumerate(convolutions)}
        shapes |= {f"upsampler.modulation.{i}": ("float32", shape) for i, shape in enumerate(modulation)}
        shapes["upsampler.drive_range"] = ("float32", (2, spec.upsampler.drive))
        shapes["upsampler.ranges"] = ("float32", (len(convolutions) - 1,))
    vectors = {
        "field.appearance": (design.appearance,),
        "track.rotation": (n_track, 3, 3),
        "track.translation": (n_track, 3),
        "track.expression": (n_track, design.expression),
        "expression.range": (2, design.expression),
        "condition.rest": (design.condition,),
        "condition.mean": (design.condition,),
        "condition.gain": (1,),
        "field.ranges": (design.n_ranges,),
        "field.byte_reach": (1,),
    }
    shapes |= {name: ("float32", shape) for name, shape in vectors.items()}
    shapes["occupancy"] = ("uint8", ((design.occupancy_resolution**3 + 7) // 8,))
    return shapes


def pack_tensors(tensors: Tensors) -> bytes:
    """The bytes of ``tensors.safetensors``; the same tensors give the same bytes."""
    from safetensors.numpy import save

    packed: bytes = save({name: np.ascontiguousarray(values) for name, values in sorted(tensors.items())})
    return packed


def tensor_ranges(packed: bytes) -> dict[str, tuple[int, int]]:
    """Where each tensor's values lie in ``pack_tensors``' bytes: name -> (offset, length), for ONNX external data."""
    start = 8 + int.from_bytes(packed[:8], "little")
    header = json.loads(packed[8:start])
    ranges = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (start + first, end - first) for name, (first, end) in ranges.items()}


def _load_tensors(packed: bytes) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, NDArray[Any]] = load(packed)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{TENSORS}: not readable ({error}): {AGAIN}") from None
    return tensors


def _tensor_faults(tensors: Tensors, spec: Spec) -> Iterator[str]:
    track = tensors.get("track.rotation")
    n_track = len(track) if track is not None and track.ndim else 0
    expected = tensor_shapes(spec, n_track)
    if unknown := sorted(set(tensors) - set(expected)):
        yield f"unknown tensors {unknown}"
    if missing := sorted(set(expected) - set(tensors) - OPTIONAL):
        yield f"missing tensors {missing}"
    if track is not None and n_track < 1:
        yield "track.rotation holds no frame"
    for name in sorted(set(expected) & set(tensors)):
        dtype, shape = expected[name]
        got = tensors[name]
        if got.dtype != dtype or got.shape != shape:
            yield f"{name} is {got.dtype} {list(got.shape)}, the spec says {dtype} {list(shape)}"
        elif got.dtype.kind == "f" and not np.isfinite(got).all():
            yield f"{name} holds a NaN or an infinity"
        elif name in ("field.ranges", "upsampler.ranges") and (got < 0).any():
            yield f"{name} holds a negative value"
        elif name == "field.byte_reach" and not 0 <= got[0] <= 1:
            yield f"{name} is {got[0]}, not 0 to 1"


# --- containers -------------------------------------------------------------------------------------------------------


class _Container(Protocol):
    """A folder or a zip whose member names and sizes were checked."""

    sizes: dict[str, int]

    def read(self, name: str) -> bytes: ...


def _check_size(name: str, size: int) -> None:
    limit = _MAX_MANIFEST_BYTES if name in (MANIFEST, SIGNATURE) else _MAX_MEMBER_BYTES
    if size > limit:
        raise BundleError(f"{name}: {size} bytes are more than a bundle may hold ({limit}): {AGAIN}")


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.sizes: dict[str, int] = {}
        for entry in sorted(path.iterdir()):
            status = entry.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{entry.name}: not a plain file (a link or a folder): {AGAIN}")
            _check_size(entry.name, status.st_size)
            self.sizes[entry.name] = status.st_size

    def read(self, name: str) -> bytes:
        try:
            with (self._path / name).open("rb") as file:
                return file.read(self.sizes[name] + 1)
        except OSError as error:
            raise BundleError(f"{name}: {error.strerror}: {AGAIN}") from None


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.sizes: dict[str, int] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    self._check(info)
                    self.sizes[info.filename] = info.file_size
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise BundleError(f"{path}: neither a folder nor a whole zip ({error}): {AGAIN}") from None
        if sum(self.sizes.values()) > path.stat().st_size:
            raise BundleError(f"{path}: members are larger than the file (a zip bomb): {AGAIN}")

    def _check(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        if name in self.sizes:
            raise BundleError(f"{name}: twice in the zip: {AGAIN}")
        if info.flag_bits & _ENCRYPTED:
            raise BundleError(f"{name}: encrypted: {AGAIN}")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise BundleError(f"{name}: compressed; members must be stored as they are (zip -0): {AGAIN}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise BundleError(f"{name}: a link: {AGAIN}")
        _check_size(name, info.file_size)

    def read(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self._path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, KeyError) as error:
            raise BundleError(f"{name}: damaged ({error}): {AGAIN}") from None


def _container(path: Path) -> _Container:
    try:
        container = _Folder(path) if path.is_dir() else _Zip(path)
    except FileNotFoundError:
        raise BundleError(f"{path}: there is no such bundle: check the path") from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}: check the path and its permissions") from None
    for name in sorted(set(container.sizes) - {MANIFEST, SIGNATURE, *MEMBERS, *OPTIONAL_MEMBERS}):
        what = f"is no member that a bundle of version {VERSION} can have"
        raise unreadable(repr(name), what, _made_by(container))
    return container


def _made_by(container: _Container) -> object:
    """As the manifest says, whatever else is wrong with it."""
    try:
        return _manifest_values(container).get("made_by")
    except (BundleError, AttributeError):
        return None


def _read_manifest(container: _Container) -> Manifest:
    if MANIFEST not in container.sizes:
        raise BundleError(f"{MANIFEST}: missing: is this an avatar? {AGAIN}")
    return Manifest.from_dict(_manifest_values(container))


def _manifest_values(container: _Container) -> Any:
    try:
        return json.loads(container.read(MANIFEST), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST}: not JSON ({error}): {AGAIN}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


# --- public -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something wrong with a bundle."""

    member: str
    message: str

    def __str__(self) -> str:
        return f"{self.member}: {self.message}"


class Bundle:
    """A checked bundle. ``path``, ``manifest``, and ``tensors`` (name -> read-only array)."""

    def __init__(
        self, path: Path, manifest: Manifest, tensors: dict[str, NDArray[Any]], container: _Container
    ):
        self.path = path
        self.manifest = manifest
        self.tensors = tensors
        self._container = container

    def read(self, member: str) -> bytes:
        """The bytes of a member (of ``manifest.files``), checked against the manifest each time.

        Raises: BundleError: it is gone or was changed since the bundle was opened.
        """
        entry = self.manifest.files.get(member)
        if entry is None:
            raise BundleError(f"{member}: no member of {self.path}: it has {sorted(self.manifest.files)}")
        content = self._container.read(member)
        if fault := _content_fault(content, entry):
            raise BundleError(f"{member}: {fault}: {AGAIN}")
        return content


def upsampler_design(bundle: Bundle) -> UpsamplerSpec:
    """Of a bundle's upsampler. Raises: BackendError: it has none."""
    design = bundle.manifest.spec.upsampler
    if design is None:
        raise BackendError(
            "detail half: this bundle has no upsampler; train one (synctalk train-upsampler RUN) and export again, "
            "or use detail auto"
        )
    return design


def _content_fault(content: bytes, entry: FileEntry) -> str | None:
    if len(content) != entry.bytes:
        return f"{len(content)} bytes, the manifest says {entry.bytes}"
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        return "its sha256 is not the manifest's (damaged or changed)"
    return None


def _list_faults(container: _Container, manifest: Manifest) -> Iterator[Finding]:
    present, listed = set(container.sizes) - {MANIFEST, SIGNATURE}, set(manifest.files)
    for name in sorted(set(MEMBERS) - present):
        yield Finding(name, "missing")
    for name in sorted(present - listed):
        yield Finding(name, "not listed in the manifest")
    for name in sorted(listed - {*MEMBERS, *OPTIONAL_MEMBERS}):
        yield Finding(name, "listed in the manifest, but no bundle can have it")


def _file_faults(container: _Container, manifest: Manifest) -> Iterator[Finding]:
    for name in sorted(set(container.sizes) & set(manifest.files)):
        try:
            fault = _content_fault(container.read(name), manifest.files[name])
        except BundleError as error:
            fault = str(error)
        if fault:
            yield Finding(name, fault)


def verify_bundle(path: str | Path) -> list[Finding]:
    """Everything that is wrong with a bundle; empty where it is sound."""
    try:
        container = _container(Path(path))
        manifest = _read_manifest(container)
    except BundleError as error:
        return [Finding(str(path), str(error))]
    findings = [*_list_faults(container, manifest), *_file_faults(container, manifest)]
    if not any(finding.member == TENSORS for finding in findings):
        try:
            tensors = _load_tensors(container.read(TENSORS))
            findings += [Finding(TENSORS, fault) for fault in _tensor_faults(tensors, manifest.spec)]
        except BundleError as error:
            findings.append(Finding(TENSORS, str(error)))
    return findings


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle, a folder or a zip, and check all of it.

    Raises: BundleError: missing, damaged, changed, newer than this version, or unsafe; it names the file.
    """
    path = Path(path)
    container = _container(path)
    manifest = _read_manifest(container)
    for finding in _list_faults(container, manifest):
        raise unreadable(finding.member, finding.message, manifest.made_by)
    for finding in _file_faults(container, manifest):
        raise BundleError(f"{finding}: {AGAIN}")
    tensors = _load_tensors(container.read(TENSORS))
    for fault in _tensor_faults(tensors, manifest.spec):
        raise unreadable(TENSORS, fault, manifest.made_by)
    for values in tensors.values():
        values.setflags(write=False)
    return Bundle(path, manifest, tensors, container)


def write_bundle(
    path: str | Path, manifest: Manifest, tensors: Tensors, members: Mapping[str, bytes]
) -> Manifest:
    """Write a bundle under a temporary name and rename it.

    A path that ends in ``.avatar`` and is not a folder becomes a zip (the same input gives the same bytes), any other a
    folder. ``manifest.files`` is filled in here; ``members`` are all of ``MEMBERS`` but the tensors, and any of ``OPTIONAL_MEMBERS``. Returns the
    manifest that was written.

    Raises: ValueError: tensors or members that the spec does not know, or that are missing. BundleError: ``path`` is in
    use by something that is not a bundle, or not writable.
    """
    path = Path(path)
    if faults := list(_tensor_faults(tensors, manifest.spec)):
        raise ValueError(f"tensors: {'; '.join(faults)}")
    contents = {TENSORS: pack_tensors(tensors), **members}
    if set(contents) - set(OPTIONAL_MEMBERS) != set(MEMBERS):
        raise ValueError(f"members: got {sorted(contents)}, expected {sorted(MEMBERS)}")
    entries = {k: FileEntry(hashlib.sha256(v).hexdigest(), len(v)) for k, v in contents.items()}
    manifest = replace(manifest, files=entries)
    text = json.dumps(manifest.to_dict(), indent=2, allow_nan=False) + "\n"
    order = [name for name in (*MEMBERS, *OPTIONAL_MEMBERS) if name in contents]
    contents = {MANIFEST: text.encode(), **{name: contents[name] for name in order}}
    write_members(path, contents)
    return manifest


def read_members(path: str | Path) -> dict[str, bytes]:
    """The bytes of every member, manifest and signature too, by name in the container's order; only names and sizes are
    checked.

    Raises: BundleError: missing, damaged or unsafe.
    """
    container = _container(Path(path))
    return {name: container.read(name) for name in container.sizes}


def write_members(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write all members under a temporary name and rename it; see ``write_bundle``."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".avatar" and not path.is_dir():
            temporary.write_bytes(packed_zip(contents))
            temporary.replace(path)
        else:
            _write_folder(temporary, contents)
            _replace_folder(temporary, path)
    except OSError as error:
        raise BundleError(f"{path}: not written ({error.strerror}): choose another path") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def packed_zip(contents: Mapping[str, bytes]) -> bytes:
    """The one zip that holds these members in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def _write_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    path.mkdir()
    for name, content in contents.items():
        (path / name).write_bytes(content)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Put a new folder in the place of an older bundle, or of nothing."""
    if not path.exists():
        temporary.rename(path)
        return
    if not path.is_dir() or (any(path.iterdir()) and not (path / MANIFEST).is_file()):
        raise BundleError(f"{path} is in use and is not a bundle: choose another path")
    older = temporary.with_suffix(".old")
    path.rename(older)
    temporary.rename(path)
    shutil.rmtree(older)
