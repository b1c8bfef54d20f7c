"""Videos, and requests as lmms-eval makes them."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A procedural clip as a file."""
    from aot_tiny.shapes.clips import write_clip

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, 3)
    return str(path)


@pytest.fixture(scope="session")
def cut_clip(clip, tmp_path_factory):
    """The same clip, its second half missing."""
    path = tmp_path_factory.mktemp("cut") / "cut.mp4"
    data = Path(clip).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return str(path)


class Ask:
    """Puts documents {"video": path} to a wrapper as the requests of one task."""

    @staticmethod
    def visuals(doc):
        return [doc["video"]] if "video" in doc else []

    def __call__(self, wrapper, docs, prompt="Describe the video.", *, task="task", **generation):
        from lmms_eval.api.instance import Instance

        wrapper.task_dict[task] = {"test": docs}
        generation = {"max_new_tokens": 4, "do_sample": False, **generation}
        return wrapper.generate_until(
            [
                Instance(
                    request_type="generate_until",
                    arguments=(prompt, dict(generation), self.visuals, number, task, "test"),
                    idx=0,
                    metadata={"task": task, "doc_id": number, "repeats": 1},
                )
                for number in range(len(docs))
            ]
        )


@pytest.fixture
def ask():
    return Ask()
