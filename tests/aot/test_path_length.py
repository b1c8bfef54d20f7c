"""How much of the package one call of the default passes, which is what a reader has to know to follow it."""

import sys
from pathlib import Path

import torch

import aot

ROOT = Path(aot.__file__).parent


def test_the_default_passes_few_functions_in_few_files(make_video):
    config, newline = aot.AOTConfig(), torch.zeros(16)
    features, shallow, deep = make_video(8, (15, 14), 16)  # of a shape that is not remembered
    passed = set()

    def note(frame, event, argument):
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if event == "call" and name[0] != "<" and Path(file).is_relative_to(ROOT):
            passed.add((str(Path(file).relative_to(ROOT)), name))

    sys.setprofile(note)
    try:
        aot.compress(features, shallow, deep, config, newline=newline, grid=(15, 14))
    finally:
        sys.setprofile(None)
    files = {file for file, _ in passed}
    print(f"{len(passed)} functions in {len(files)} files:", *sorted(passed), sep="\n")
    assert "methods/aot.py" in files and "ops/facility_location.py" in files
    assert len(passed) <= 45 and len(files) <= 14
