"""Makes the golden copy beside this file: python make_copy.py GOLDEN_FOLDER (the folder with
golden.safetensors).
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

VALUES = 600


def main(source: Path, target: Path) -> None:
    golden = {name: x for name, x in load_file(source / "golden.safetensors").items() if "untied" not in name}
    steps = {name: max(1, -(-x.numel() // VALUES)) for name, x in golden.items()}
    save_file(
        {name: x.flatten()[:: steps[name]].contiguous() for name, x in golden.items()},
        target / "golden.safetensors",
    )
    layout = {name: {"shape": list(x.shape), "step": steps[name]} for name, x in golden.items()}
    (target / "layout.json").write_text(json.dumps(layout, indent=1) + "\n")
    np.savez_compressed(target / "frames.npz", frames=np.load(source / "frames.npy"))
    (target / "tied").mkdir(exist_ok=True)
    for file in (source / "tied").iterdir():
        shutil.copyfile(file, target / "tied" / file.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).resolve().parent)
