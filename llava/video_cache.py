"""Encoded videos on the disk, so that another run, question or retention starts at the language model.

Each is a safetensors file, named by the digest of all that it depends on: the video's bytes, the frames that were asked
for, the model, and the settings where it holds kept tokens. Several processes may use a folder at a time. A file
appears whole, under its name, and does not change; what was used the longest ago goes first when there is no room.
"""

import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

import aot
import llava
from aot import AOTConfig, CompressedVideo
from llava.decoders.pillow_reader import SUFFIXES
from llava.decoders.sandbox import open_regular
from llava.eval.provenance import PACKAGES, checkpoint_fingerprint, digest, folder_hash
from llava.model.compression import TowerFlops, VideoFeatures
from llava.utils import versions
from llava.video import FrameStream, Video, check_path

logger = logging.getLogger(__name__)

PER_TOKEN = ("tokens", "frame", "position", "kind", "mass")  # of a CompressedVideo
ABANDONED = 3600.0  # seconds after which nobody writes a file any more


@dataclass(frozen=True)
class Entry:
    """A file of the cache. size: bytes. used: seconds since the epoch, when it was written or read last."""

    file: Path
    size: int
    used: float

    def about(self) -> dict[str, Any]:
        """What the file says of itself, empty where it cannot be read."""
        try:
            with safe_open(self.file, "np") as content:
                return json.loads((content.metadata() or {}).get("facts", "{}"))
        except (OSError, SafetensorError, ValueError):
            return {}


class VideoCache:
    """The files of a folder.

    most_bytes: of all together. identity: what else the files depend on, of model and program, as plain JSON values.
    """

    def __init__(self, folder: Path, *, most_bytes: int, identity: Mapping[str, Any] | None = None):
        self.folder, self.most_bytes, self.identity = folder, most_bytes, dict(identity or {})

    def key(self, path: str, **asked: Any) -> str:
        """The name of a video's file. asked: frames, captured outputs, settings, as plain JSON values.

        Raises VideoError for a path that cannot be read.
        """
        return digest({"identity": self.identity, "video": video_digest(path), **asked})

    def load(self, key: str, device: torch.device) -> tuple[Video, VideoFeatures | CompressedVideo] | None:
        """What was saved, its video without frames; None for what is not there, torn, changed or not ours."""
        file = self._file(key)
        try:
            content = file.read_bytes()  # at once: the file may go at any moment
            os.utime(file)
            tensors = load(content)
        except (OSError, SafetensorError):
            return None
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        said = json.loads(header).get("__metadata__", {})
        if said.get("checksum") != _checksum(key, said.get("facts", ""), tensors):
            return None
        facts = json.loads(said["facts"])
        shown = {**facts["video"], "times": np.array(facts["video"]["times"])}
        video = Video(frames=np.empty((0, 0, 0, 3), np.uint8), **shown)
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        if "settings" not in facts:
            found = VideoFeatures.of(tensors.pop("features"), tuple(facts["grid"]), tensors)
            return video, replace(found, flops=facts["tower"] and TowerFlops(*facts["tower"]))
        rest = {**facts["kept"], "grid": tuple(facts["grid"]), "config": AOTConfig.from_dict(facts["settings"])}
        return video, CompressedVideo(**tensors, **rest)

    def save(self, key: str, path: str, video: Video | FrameStream, encoded: VideoFeatures | CompressedVideo) -> None:
        """Keeps what was made of a video; where that cannot be, a line of the log says so. path: for people to read."""
        shown = {name: getattr(video, name) for name in ("duration", "decoder", "total_frames", "rate")}
        shown["times"] = [float(moment) for moment in video.times]
        facts = {"path": os.path.abspath(path), "video": shown, "grid": list(encoded.grid)}
        if isinstance(encoded, CompressedVideo):
            encoded.check()
            tensors = {name: getattr(encoded, name) for name in PER_TOKEN}
            facts["kept"] = {name: getattr(encoded, name) for name in ("frames", "clips", "whole_frames", "budget")}
            facts["settings"] = encoded.config.to_dict()
        else:
            tensors, facts["tower"] = {"features": encoded.features, **encoded.outputs}, encoded.flops
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        if sum(tensor.nbytes for tensor in tensors.values()) > self.most_bytes:
            return
        written = json.dumps(facts)
        part = self.folder / f".{key}.{uuid.uuid4().hex[:8]}.part"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what videos show is their owner's
            save_file(tensors, part, {"facts": written, "checksum": _checksum(key, written, tensors)})
            part.replace(self._file(key))
        except (OSError, SafetensorError) as error:
            with suppress(OSError):  # of a folder that is none
                part.unlink()
            logger.warning("%s is not kept in the cache (%s).", path, error)
            return
        self._make_room()

    def entries(self) -> list[Entry]:
        """The files, what was used last first; others in the folder are not looked at."""
        found = []
        for file in self.folder.glob("*.safetensors"):
            if re.fullmatch("[0-9a-f]{64}", file.stem):
                try:
                    stat = file.stat()
                except FileNotFoundError:  # another process made room
                    continue
                found.append(Entry(file, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Deletes all files of the cache; returns how many."""
        entries = self.entries()
        for entry in entries:
            entry.file.unlink(missing_ok=True)
        return len(entries)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _make_room(self) -> None:
        """Deletes what was used the longest ago, and what a process that was killed left behind."""
        total = 0
        for entry in self.entries():
            total += entry.size
            if total > self.most_bytes:
                entry.file.unlink(missing_ok=True)
        for part in self.folder.glob(".*.part"):
            try:
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink(missing_ok=True)
            except FileNotFoundError:  # another process has finished it
                continue


def encoder_cache(folder: Path, gigabytes: float, checkpoint: str, **choice: Any) -> VideoCache:
    """The cache of what a checkpoint makes of videos, by this program and what it runs on.

    choice: how it was loaded, as plain JSON values.
    """
    code = [folder_hash(Path(package.__file__).parent, "*.py") for package in (aot, llava)]
    identity = {"checkpoint": checkpoint_fingerprint(checkpoint), "code": code, "versions": versions(PACKAGES)}
    return VideoCache(folder, most_bytes=int(1e9 * gigabytes), identity=identity | choice)


def video_digest(path: str) -> str:
    """SHA-256 of a video file, or of the names and bytes of a folder's pictures. Raises VideoError."""
    check_path(path)
    folder = Path(path)
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES) if folder.is_dir() else [folder]
    whole = hashlib.sha256()
    for file in files:
        with os.fdopen(open_regular(str(file)), "rb") as content:
            if folder.is_dir():
                size = os.fstat(content.fileno()).st_size
                whole.update(f"{file.name}\0{size}\0".encode("utf-8", "surrogateescape"))
            while block := content.read(1 << 22):
                whole.update(block)
    return whole.hexdigest()


def _checksum(key: str, facts: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over all that a file holds and the name that it was written under."""
    whole = hashlib.sha256(json.dumps([key, facts]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        whole.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()
