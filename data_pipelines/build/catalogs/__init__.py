"""Catalogs of the supported data sets, from their official files and lists."""

from __future__ import annotations

from collections.abc import Callable

from data_pipelines.build.catalogs import (
    audioset,
    esc50,
    folder,
    fsd50k,
    hmdb51,
    kinetics,
    spoken_recordings,
    ucf101,
)
from data_pipelines.build.catalogs.catalog import Catalog, Source

CATALOGS: dict[str, Callable[[Source], Catalog]] = {
    "folder": folder.list_items,
    "kinetics400": kinetics.list_kinetics400,
    "kinetics_sound": kinetics.list_kinetics_sound,
    "audioset": audioset.list_items,
    "ucf101": ucf101.list_items,
    "hmdb51": hmdb51.list_items,
    "esc50": esc50.list_items,
    "fsd50k": fsd50k.list_items,
    "spoken_recordings": spoken_recordings.list_items,
}
