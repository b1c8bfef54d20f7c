"""The exam during training: few drawn questions, on clips of its own, under the reduction that is trained."""

from pathlib import Path
from statistics import fmean

from aot_tiny.worlds import World
from llava.eval.exam.evaluator import run_exam
from llava.eval.exam.feature_cache import FeatureCache, shared_plan
from llava.eval.exam.questions import clip_files, make_exam
from llava.eval.exam.settings import ExamSetting

SEED = 500_000  # first clip, beyond those of the exam that is reported and before those that are trained on
FORMS = ("open", "choice")


class TrainingExam:
    """Questions of a world, to be put to a model while it is trained.

    folder: where the clips go. questions: how many, each asked openly and as multiple choice.
    """

    def __init__(self, model, tokenizer, processor, *, folder: Path, questions: int, world: World):
        self.model, self.tokenizer, self.processor, self.world = model, tokenizer, processor, world
        self.items = make_exam(questions, seed=SEED, world=world)
        self.files = clip_files(self.items, folder, world=world)
        self.frames = {number: world.frames(world.sample_clip(number)) for number in self.files}

    def __len__(self) -> int:
        return len(self.items)

    def scores(self) -> dict[str, float]:
        """Shares of right answers, 0..1, by form; the model is left as it was."""
        model, setting = self.model, ExamSetting("training", self.model.config.aot)
        training, attention = model.training, model.config._attn_implementation
        model.eval()
        model.config._attn_implementation = "sdpa"  # prompts packed in one pass need a mask, which flash-attn has not
        plan = shared_plan(model.get_vision_tower(), [setting.config])
        cache = FeatureCache(model, self.processor, self.files, plan, frames=self.frames, room=0)
        try:
            records = run_exam(model, self.tokenizer, cache, self.items, setting, captioned=0, world=self.world)
        finally:
            model.config._attn_implementation = attention
            model.train(training)
        return {form: fmean(record.score for record in records if record.task == form) for form in FORMS}
