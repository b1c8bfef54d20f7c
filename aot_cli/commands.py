"""What commands there are, by their groups in the help: their modules, and examples.

A command's module has `add_options(parser)` and `execute(options)`, which returns the exit code.
"""

from dataclasses import dataclass

EXAMPLES = (
    "aot clip clip.mp4                   draw a clip; prints what to ask",
    "aot chat clip.mp4 --retention 10%   ask about it, on a tenth of the tokens",
    "aot chat --help                     the options of one command",
)


@dataclass(frozen=True)
class Command:
    """help: what it does, in a line. passes_on: arguments that it does not know go to another program."""

    module: str
    help: str
    examples: tuple[str, ...]
    passes_on: bool = False


GROUPS = {
    "try it": {
        "demo": Command(
            "llava.chat.demo",
            "three questions about a clip, at 100 % and at 10 %",
            ("aot demo", "aot demo --retention 25%"),
        ),
        "clip": Command(
            "llava.chat.sample_clip",
            "draw a sample clip and suggest questions",
            ("aot clip clip.mp4", "aot clip clip.mp4 --seed 7 --force"),
        ),
        "chat": Command(
            "llava.chat.chat",
            "ask about a video in the terminal",
            (
                'aot chat clip.mp4 --question "What shape is the green object?" --json',
                "aot chat holiday.mp4 --model-path lmms-lab/llava-onevision-qwen2-7b-ov",
            ),
        ),
        "watch": Command(
            "llava.chat.watch",
            "ask about a camera, a stream or a folder that grows",
            (
                "aot watch clip.mp4 --max-tokens 300",
                "aot watch /dev/video0",
                'ffmpeg -re -i FILM -f mjpeg - | aot watch - --question "What moves?" --every 9',
            ),
        ),
        "web": Command(
            "llava.chat.web",
            "ask about a video in a browser",
            ("aot web", "aot web --port 8080 --retention 25%"),
        ),
        "visualize": Command(
            "llava.chat.visualize",
            "draw what is kept of a video, and where the rest goes",
            ("aot visualize clip.mp4", "aot visualize clip.mp4 --retention 5% --output pictures"),
        ),
    },
    "many questions": {
        "infer": Command(
            "llava.eval.infer",
            "answer a file of questions, resumable",
            ("aot infer --input questions.jsonl --output answers.jsonl --retention 10%",),
        ),
        "cache": Command(
            "llava.chat.cache",
            "list or clear the encoded videos that --cache keeps",
            ("aot cache", "aot cache --clear", "aot cache DIR     of chat --cache DIR"),
        ),
        "serve": Command(
            "llava.serve.vllm",
            "an OpenAI-compatible server on vLLM, with vllm serve's options",
            ("aot convert lmms-lab/llava-onevision-qwen2-7b-ov ov-7b", "aot serve ov-7b --retention 10% --port 8000"),
            passes_on=True,
        ),
        "encoder": Command(
            "llava.serve.encoder_server",
            "encode videos in front of a stock vLLM",
            (
                "vllm serve MODEL --enable-prompt-embeds --port 8001",
                "aot encoder --model-path CHECKPOINT --vllm http://localhost:8001",
            ),
        ),
        "ask": Command(
            "llava.serve.client",
            "ask such a server about a video or picture",
            ('aot ask clip.mp4 "What happens in this video?" --url http://localhost:8000',),
        ),
    },
    "evaluate": {
        "exam": Command(
            "llava.eval.exam.command",
            "the embedded model's exam, under settings or all methods",
            (
                "aot exam --questions 40 --settings full aot@10%     a minute on two cores",
                "aot exam methods --only methods --retention 10% --page results.md",
            ),
        ),
        "eval": Command(
            "llava.eval.evaluate",
            "models × settings × benchmarks, resumable",
            (
                "aot eval tiny                         the embedded model: two minutes, no GPU",
                "aot eval main-ov --nproc_per_node 8   a published table, on eight GPUs",
                "aot eval main-ov --embedded --limit 2 --pages tables     its rows on the CPU",
                "aot eval --name ov --model llava_onevision_aot --model-path CHECKPOINT \\",
                "    --args max_frames_num=32 --tasks videomme --retention 25% 10%",
            ),
        ),
        "report": Command(
            "llava.eval.report",
            "tables of what was run, beside published ones",
            ("aot report runs/sweeps/tiny", "aot report runs/exam --page docs/results.md"),
        ),
        "leaderboard": Command(
            "llava.eval.leaderboard",
            "add exams to the leaderboard; scores every entry again",
            ("aot leaderboard runs/exam", "aot leaderboard     check what is there"),
        ),
    },
    "models and shell": {
        "download": Command(
            "llava.eval.download",
            "fetch checkpoints and benchmarks; asks first",
            ("aot download ov-7b --list", "aot download ov-7b videomme"),
        ),
        "convert": Command(
            "llava.model.convert",
            "write a checkpoint in the layout that vLLM reads",
            ("aot convert lmms-lab/llava-onevision-qwen2-7b-ov ov-7b",),
        ),
        "train": Command(
            "llava.train.train",
            "train on conversations; also takes all of TrainingArguments",
            (
                "aot train --data_path data.json --retention 10% --output_dir runs/mine",
                "bash scripts/finetune.sh     the same, on all GPUs",
            ),
            passes_on=True,
        ),
        "train-tiny": Command(
            "aot_tiny.training.train",
            "train a stage of the embedded model",
            (
                "aot train-tiny --stage tower --output runs/film/tower",
                "bash scripts/train_tiny.sh     all stages, one after another",
            ),
        ),
        "export": Command(
            "aot_tiny.training.export",
            "make a checkpoint of a finished training",
            ("aot export --run runs/aot-tiny --output checkpoints/mine",),
        ),
        "completion": Command(
            "aot_cli.completion",
            "completion of commands and options for your shell",
            (
                "aot completion bash > ~/.local/share/bash-completion/completions/aot",
                "aot completion zsh > ~/.zfunc/_aot      a folder that $fpath names",
            ),
        ),
    },
}
COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}
