"""Questions that show several things or a broken file, or whose texts hold line separators; the clips lie in the
working folder.
"""

import datasets
from lmms_eval.api.task import ConfigurableTask
from PIL import Image

QUESTION = "What shape is the yellow object?\nAnswer the question using a single word or phrase."
MARKED = f"<image>\nFirst clip.\n<image>\nSecond clip. {QUESTION}"
SHOWN = (["a"], ["b"], ["a", "b"], ["b", "a"], ["image", "a"], ["a", "image"], ["a", "b"], ["broken"])
ANSWERS = {0: "a triangle\u2028or a square", 1: "a cross\u0085"}


class Odd(ConfigurableTask):
    def __init__(self, config=None, **arguments):
        super().__init__(config={key: value for key, value in config.items() if key != "class"}, **arguments)

    def download(self, dataset_kwargs=None):
        rows = [
            {"prompt": MARKED if number == 6 else QUESTION, "shown": shown, "answer": ANSWERS.get(number, "square")}
            for number, shown in enumerate(SHOWN)
        ]
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})
        self.dataset_no_image = self.dataset


def visuals(doc):
    return [Image.new("RGB", (96, 96), (200, 30, 30)) if name == "image" else f"{name}.mp4" for name in doc["shown"]]


def score(doc, results):
    return {"accuracy": float(results[0].strip() == doc["answer"])}
