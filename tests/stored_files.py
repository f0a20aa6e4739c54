"""Files in folders and in buckets: their names, digests, copies and damage."""

import hashlib
import shutil
from pathlib import Path, PurePath

from data_pipelines.format import file_tree, storage


def names(folder: PurePath) -> list[str]:
    """The names of all files below a folder, relative to it, sorted."""
    return sorted(file_tree.walk(str(folder)))


def digests(folder: Path) -> dict[str, str]:
    """The digest of each file directly in a folder, by name."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def values_file(folder: PurePath) -> PurePath:
    """The largest file of an item's values."""
    values = [folder / name for name in names(folder) if "d" in PurePath(name).parts[:-1]]
    return max(values, key=lambda file: len(storage.read(str(file))))


def flip_a_bit(file: PurePath, eighth: int = 3) -> None:
    """Flips a bit at some eighths of a file."""
    content = bytearray(storage.read(str(file)))
    content[eighth * len(content) // 8] ^= 1 << eighth
    storage.write(str(file), bytes(content))


def truncate(file: PurePath) -> None:
    """Removes the second half of a file."""
    content = storage.read(str(file))
    storage.write(str(file), content[: len(content) // 2])


def remove(path: PurePath) -> None:
    """Removes a file, or a folder with its content."""
    if storage.is_folder(str(path)):
        storage.remove_folder(str(path))
    else:
        storage.remove(str(path))


def copy(folder: PurePath, target: PurePath) -> None:
    """Copies a folder, also between a disk and a bucket."""
    if isinstance(folder, Path) and isinstance(target, Path):
        shutil.copytree(folder, target)
        return
    for name in names(folder):
        storage.write(str(target / name), storage.read(str(folder / name)))


def rename(folder: PurePath, target: PurePath) -> None:
    """Renames a folder, or copies and removes its objects."""
    if isinstance(folder, Path):
        folder.rename(target)
    else:
        copy(folder, target)
        storage.remove_folder(str(folder))
